"""Healthy runs: ordinary small networks trained in ordinary ways. Name -> seed -> trial."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from healthy.trial import (
    Recurrent,
    Residual,
    Transformer,
    Trial,
    convnet,
    diabetes,
    digits,
    he,
    mlp,
    mnist,
    sequences,
    supervised,
    teacher,
    token_loss,
)

WELL: dict[str, Callable[[int], Trial]] = {}


def well(make: Callable[[int], Trial]) -> Callable[[int], Trial]:
    WELL[make.__name__.replace("_", "-")] = make
    return make


def _digits_mlp(name: str, act, optimizer, steps: int = 600, sizes=(64, 100, 100, 10), **kw) -> None:
    def make(seed: int) -> Trial:
        model = mlp(*sizes, act=act)
        return supervised(model, optimizer(model.parameters()), digits(), steps, **kw)

    WELL[name] = make


def cosine(total: int, warm: int = 50) -> Callable[[int], float]:
    """Linear warm-up, then half a cosine down to 0."""
    return lambda i: min(1.0, (i + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(1.0, i / total)))


_SGD, _HEAVY = (lambda p: optim.SGD(p, 0.1)), (lambda p: optim.SGD(p, 0.05, momentum=0.9))
_ADAM, _ADAMW = (lambda p: optim.Adam(p, 1e-3)), (lambda p: optim.AdamW(p, 1e-3, weight_decay=0.01))
_digits_mlp("relu-sgd", nn.ReLU, _SGD)
_digits_mlp("relu-momentum", nn.ReLU, _HEAVY)
_digits_mlp("relu-adam", nn.ReLU, _ADAM)
_digits_mlp("relu-adam-fast", nn.ReLU, lambda p: optim.Adam(p, 3e-3))
_digits_mlp("relu-adamw", nn.ReLU, _ADAMW)
_digits_mlp("gelu-adamw", nn.GELU, _ADAMW)
_digits_mlp("silu-adam", nn.SiLU, _ADAM)
_digits_mlp("tanh-sgd", nn.Tanh, _SGD)
_digits_mlp("tanh-adam", nn.Tanh, _ADAM)
_digits_mlp("tanh-momentum", nn.Tanh, _HEAVY)
_digits_mlp("sigmoid-adam", nn.Sigmoid, lambda p: optim.Adam(p, 3e-3), sizes=(64, 64, 10))
_digits_mlp("leaky-rmsprop", nn.LeakyReLU, lambda p: optim.RMSprop(p, 1e-3))
_digits_mlp("wide-adam", nn.ReLU, _ADAM, 400, (64, 512, 512, 10))
_digits_mlp("narrow-sgd", nn.ReLU, _SGD, 800, (64, 8, 8, 10))
_digits_mlp("relu-cosine", nn.ReLU, _HEAVY, 800, schedule=cosine(800))
_digits_mlp("batch-1", nn.ReLU, lambda p: optim.SGD(p, 0.01), 2000, batch=1)
_digits_mlp("batch-4", nn.ReLU, _ADAM, 1500, batch=4)
_digits_mlp("to-convergence", nn.ReLU, _ADAM, 2000)
_digits_mlp("slow-sgd", nn.ReLU, lambda p: optim.SGD(p, 0.01), 1000)


@well
def deep_relu(seed: int) -> Trial:
    model = he(mlp(64, *[64] * 8, 10))
    return supervised(model, optim.Adam(model.parameters(), 5e-4), digits(), 600)


@well
def deep_tanh(seed: int) -> Trial:
    model = mlp(64, *[64] * 6, 10, act=nn.Tanh)
    return supervised(model, optim.AdamW(model.parameters(), 1e-3), digits(), 600)


@well
def layer_norm(seed: int) -> Trial:
    model = mlp(64, 100, 100, 100, 10, norm=True)
    return supervised(model, optim.AdamW(model.parameters(), 1e-3), digits(), 600)


@well
def dropout(seed: int) -> Trial:
    model = mlp(64, 200, 200, 10, dropout=0.3)
    return supervised(model, optim.Adam(model.parameters(), 1e-3), digits(), 600)


@well
def conv_adam(seed: int) -> Trial:
    model = convnet()
    return supervised(model, optim.Adam(model.parameters(), 1e-3), digits(), 400)


@well
def conv_norm_momentum(seed: int) -> Trial:
    model = convnet(norm=True)
    return supervised(model, optim.SGD(model.parameters(), 0.05, momentum=0.9), digits(), 400, schedule=cosine(400))


@well
def residual(seed: int) -> Trial:
    model = Residual()
    return supervised(model, optim.SGD(model.parameters(), 0.05, momentum=0.9), digits(), 600, schedule=cosine(600))


@well
def transformer(seed: int) -> Trial:
    model = Transformer()
    rate = optim.AdamW(model.parameters(), 3e-3)
    return supervised(model, rate, sequences(seed), 300, batch=32, loss=token_loss, schedule=cosine(300), clip=1.0)


@well
def recurrent(seed: int) -> Trial:
    model = Recurrent()
    return supervised(model, optim.Adam(model.parameters(), 3e-3), digits(), 500, clip=1.0)


@well
def regression_relu(seed: int) -> Trial:
    model = mlp(20, 64, 64, 1)
    return supervised(model, optim.Adam(model.parameters(), 1e-3), teacher(seed), 800, loss=F.mse_loss)


@well
def regression_tanh(seed: int) -> Trial:
    model = mlp(20, 64, 64, 1, act=nn.Tanh)
    return supervised(model, optim.SGD(model.parameters(), 0.05), teacher(seed), 800, loss=F.mse_loss)


@well
def regression_batch_1(seed: int) -> Trial:
    model = mlp(20, 64, 64, 1)
    return supervised(model, optim.SGD(model.parameters(), 0.005), teacher(seed), 2000, batch=1, loss=F.mse_loss)


@well
def regression_noisy(seed: int) -> Trial:
    model = mlp(10, 32, 1)
    return supervised(model, optim.Adam(model.parameters(), 1e-3), diabetes(), 600, loss=F.mse_loss)


@well
def one_input(seed: int) -> Trial:
    x = torch.linspace(-3, 3, 512)[:, None]
    model = mlp(1, 64, 64, 1)
    return supervised(model, optim.Adam(model.parameters(), 1e-3), (x, torch.sin(2 * x)), 1000, loss=F.mse_loss)


@well
def two_classes(seed: int) -> Trial:
    x, y = digits()
    model = mlp(64, 100, 100, 2)
    return supervised(model, optim.Adam(model.parameters(), 1e-3), (x, y % 2), 600)


@well
def two_classes_long(seed: int) -> Trial:
    """Far past convergence with weight decay: the last layer collapses to about one direction a class, by design."""
    x, y = digits()
    model = mlp(64, 64, 64, 2)
    return supervised(model, optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4), (x, y % 2), 2000)


@well
def imbalanced(seed: int) -> Trial:
    x, y = digits()
    model = mlp(64, 100, 100, 2)
    return supervised(model, optim.Adam(model.parameters(), 1e-3), (x, (y == seed % 10).long()), 600)


@well
def label_noise(seed: int) -> Trial:
    x, y = digits()
    g = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(y), generator=g) < 0.4
    noisy = torch.where(wrong, torch.randint(10, y.shape, generator=g), y)
    model = mlp(64, 100, 100, 10)
    return supervised(model, optim.Adam(model.parameters(), 1e-3), (x, noisy), 800)


@well
def autoencoder(seed: int) -> Trial:
    x, _ = digits()
    model = nn.Sequential(mlp(64, 64, 6), mlp(6, 64, 64))
    return supervised(model, optim.Adam(model.parameters(), 2e-3), (x, x), 800, loss=F.mse_loss)


@well
def full_batch(seed: int) -> Trial:
    x, y = digits()
    model = mlp(64, 32, 32, 10, act=nn.Tanh)
    return supervised(model, optim.SGD(model.parameters(), 0.3), (x[:500], y[:500]), 400, batch=0, probe=True)


@well
def full_batch_edge(seed: int) -> Trial:
    """A step so large that the sharpness climbs to the edge of stability and stays there, while the loss falls."""
    x, y = digits()
    model = mlp(64, 32, 32, 10, act=nn.Tanh)
    return supervised(model, optim.SGD(model.parameters(), 1.0), (x[:500], y[:500]), 400, batch=0, probe=True)


@well
def probed_adam(seed: int) -> Trial:
    model = mlp(64, 64, 64, 10)
    return supervised(model, optim.Adam(model.parameters(), 1e-3), digits(), 600, probe=True)


@well
def fine_tuned(seed: int) -> Trial:
    x, y = digits()
    model = mlp(64, 100, 100, 10)
    first = supervised(model, optim.Adam(model.parameters(), 1e-3), (x, y), 300)
    for i in range(300):
        first.step(i)
    return supervised(model, optim.Adam(model.parameters(), 3e-4), (x.flip(1), y), 600)


@well
def permuted_pixels(seed: int) -> Trial:
    return _stream(seed, told=True)


@well
def permuted_pixels_untold(seed: int) -> Trial:
    return _stream(seed, told=False)


def _stream(seed: int, told: bool) -> Trial:
    x, y = digits()
    g = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(64, generator=g) for _ in range(10)]
    model = mlp(64, 100, 100, 10)
    optimizer = optim.SGD(model.parameters(), 0.05)

    def step(i: int) -> None:
        rows = torch.randint(len(x), (32,), generator=g)
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows][:, orders[i // 200]]), y[rows]).backward()
        optimizer.step()

    return Trial(model, [optimizer], step, 2000, boundaries=range(200, 2000, 200) if told else (), readings=200)


@well
def slow_drift(seed: int) -> Trial:
    x, y = teacher(seed, noise=0.05)
    g = torch.Generator().manual_seed(seed)
    model = mlp(20, 64, 64, 1)
    optimizer = optim.Adam(model.parameters(), 1e-3)

    def step(i: int) -> None:
        rows = torch.randint(len(x), (64,), generator=g)
        optimizer.zero_grad()
        target = y[rows] * math.cos(i / 300) + x[rows, :1] * math.sin(i / 300)
        F.mse_loss(model(x[rows]), target).backward()
        optimizer.step()

    return Trial(model, [optimizer], step, 1500)


@well
def value_learning(seed: int) -> Trial:
    """Temporal differences with a slow target network: the loss may rise while the values grow, and that is healthy."""
    g = torch.Generator().manual_seed(seed)
    states, move = torch.randn(256, 8, generator=g), torch.randn(8, 8, generator=g) * 0.2
    reward = torch.sigmoid(states[:, :1])
    nearest = torch.cdist(torch.tanh(states @ move + states), states).argmin(1)
    model, target = mlp(8, 64, 64, 1), mlp(8, 64, 64, 1)
    target.load_state_dict(model.state_dict())
    optimizer = optim.Adam(model.parameters(), 1e-3)

    def step(i: int) -> None:
        rows = torch.randint(256, (64,), generator=g)
        with torch.no_grad():
            goal = reward[rows] + 0.97 * target(states[nearest[rows]])
            for slow, fast in zip(target.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 0.01)
        optimizer.zero_grad()
        F.mse_loss(model(states[rows]), goal).backward()
        optimizer.step()

    return Trial(model, [optimizer], step, 1500)


class Pair(nn.Module):
    """A generator and a discriminator."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = mlp(4, 32, 32, 2)
        self.judge = mlp(2, 32, 32, 1, act=nn.LeakyReLU)


@well
def adversarial(seed: int) -> Trial:
    g = torch.Generator().manual_seed(seed)
    model = Pair()
    makes, judges = optim.Adam(model.maker.parameters(), 1e-3), optim.Adam(model.judge.parameters(), 1e-3)
    score = F.binary_cross_entropy_with_logits

    def step(i: int) -> None:
        real = torch.randn(64, 2, generator=g) * torch.tensor([1.0, 0.3]) + 1
        fake = model.maker(torch.randn(64, 4, generator=g))
        judges.zero_grad()
        verdicts: tuple[Tensor, Tensor] = model.judge(real), model.judge(fake.detach())
        loss = score(verdicts[0], torch.ones(64, 1)) + score(verdicts[1], torch.zeros(64, 1))
        loss.backward()
        judges.step()
        makes.zero_grad()
        score(model.judge(fake), torch.ones(64, 1)).backward()
        makes.step()

    return Trial(model, [judges, makes], step, 500)


if os.environ.get("HEALTHY_MNIST"):

    @well
    def mnist_adam(seed: int) -> Trial:
        model = mlp(784, 128, 128, 10)
        data = mnist(os.environ["HEALTHY_MNIST"])
        return supervised(model, optim.Adam(model.parameters(), 1e-3), data, 600)

    @well
    def mnist_sgd(seed: int) -> Trial:
        model = mlp(784, 128, 128, 10)
        data = mnist(os.environ["HEALTHY_MNIST"])
        return supervised(model, optim.SGD(model.parameters(), 0.1), data, 600)
