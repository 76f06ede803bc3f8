"""Sick runs: one fault each, and the conditions it must raise. Name -> seed -> trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn, optim
from torch.nn import functional as F

from healthy.trial import Trial, digits, mlp, supervised

SICK: dict[str, Callable[[int], Trial]] = {}


def sick(*expected: str) -> Callable[[Callable[[int], Trial]], Callable[[int], Trial]]:
    def mark(make: Callable[[int], Trial]) -> Callable[[int], Trial]:
        SICK[make.__name__.replace("_", "-")] = lambda seed: dataclasses.replace(make(seed), expected=expected)
        return make

    return mark


@sick("dormant-units")
def adam_rate_too_high(seed: int) -> Trial:
    model = mlp(64, 100, 100, 10)
    return supervised(model, optim.Adam(model.parameters(), 0.3), digits(), 400)


@sick("oscillating-loss")
def tanh_adam_rate_too_high(seed: int) -> Trial:
    model = mlp(64, 100, 100, 10, act=nn.Tanh)
    return supervised(model, optim.Adam(model.parameters(), 0.3), digits(), 400)


@sick("oscillating-loss")
def sgd_rate_too_high(seed: int) -> Trial:
    model = mlp(64, 100, 100, 10, act=nn.Tanh)
    return supervised(model, optim.SGD(model.parameters(), 3.0), digits(), 400)


@sick("oscillating-loss")
def momentum_rate_too_high(seed: int) -> Trial:
    model = mlp(64, 100, 100, 10, act=nn.Tanh)
    return supervised(model, optim.SGD(model.parameters(), 1.0, momentum=0.9), digits(), 400)


@sick("exploding-gradients")
def beyond_stable(seed: int) -> Trial:
    """Least squares with a step 5% too large: every step makes the error along the sharpest direction larger."""
    x, y = digits()
    model = mlp(64, 10)
    padded = torch.cat([x, torch.ones(len(x), 1)], 1)
    sharpness = float(torch.linalg.eigvalsh(padded.T @ padded / len(x))[-1]) * 2 / 10
    optimizer = optim.SGD(model.parameters(), 2.1 / sharpness)
    return supervised(model, optimizer, (x, F.one_hot(y, 10).float()), 200, batch=0, loss=F.mse_loss)


@sick("non-finite")
def nan_loss(seed: int) -> Trial:
    model = mlp(64, 64, 10)

    def loss(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(out, target) + 1e-3 * (out[0, 0] - 2.0).sqrt()

    return supervised(model, optim.Adam(model.parameters(), 1e-3), digits(), 200, loss=loss)


@sick("dormant-units")
def dead_start(seed: int) -> Trial:
    model = mlp(64, 100, 100, 10)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.bias.fill_(-1.5)
    return supervised(model, optim.SGD(model.parameters(), 0.05), digits(), 500)


@sick("dormant-units")
def dead_bottleneck(seed: int) -> Trial:
    """An autoencoder whose six-unit bottleneck is rectified, so that most of it dies."""
    x, _ = digits()
    model = mlp(64, 64, 6, 64, 64)
    return supervised(model, optim.Adam(model.parameters(), 1e-2), (x, x), 500, loss=F.mse_loss)


@sick("dormant-units")
def died_by_rate(seed: int) -> Trial:
    model = mlp(64, 100, 100, 10)
    return supervised(model, optim.Adam(model.parameters(), 0.05), digits(), 600)


@sick("vanishing-gradients")
def deep_sigmoid(seed: int) -> Trial:
    model = mlp(64, *[64] * 8, 10, act=nn.Sigmoid)
    return supervised(model, optim.SGD(model.parameters(), 0.1), digits(), 600)


@sick("stalled-learning")
def deep_sigmoid_stalls(seed: int) -> Trial:
    return deep_sigmoid(seed)


@sick("saturated-units")
def saturated_start(seed: int) -> Trial:
    model = mlp(64, 100, 100, 10, act=nn.Tanh)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.mul_(60)
            layer.bias.mul_(60)
    return supervised(model, optim.SGD(model.parameters(), 0.01), digits(), 500)


@sick("rank-collapse")
def deep_plain(seed: int) -> Trial:
    model = mlp(64, *[64] * 16, 10)
    return supervised(model, optim.SGD(model.parameters(), 0.01), digits(), 400)


@sick("stalled-learning")
def rate_too_low(seed: int) -> Trial:
    model = mlp(64, 100, 100, 10)
    return supervised(model, optim.SGD(model.parameters(), 1e-6), digits(), 800)


@sick("stalled-learning")
def zero_start(seed: int) -> Trial:
    model = mlp(64, 100, 100, 10)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return supervised(model, optim.SGD(model.parameters(), 0.01), digits(), 800)


@sick("untrained-parameters")
def forgotten_layer(seed: int) -> Trial:
    model = mlp(64, 100, 100, 10)
    rest = [p for n, p in model.named_parameters() if not n.startswith("2.")]
    return supervised(model, optim.Adam(rest, 1e-3), digits(), 300)


class Detached(nn.Module):
    """A network whose first layer is cut off by a stray detach()."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 100), nn.Linear(100, 100), nn.Linear(100, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)).detach())))


@sick("untrained-parameters")
def detached_layer(seed: int) -> Trial:
    model = Detached()
    return supervised(model, optim.Adam(model.parameters(), 1e-3), digits(), 300)


@sick("no-optimizer-step")
def never_steps(seed: int) -> Trial:
    model = mlp(64, 100, 10)
    optimizer = optim.Adam(model.parameters(), 1e-3)
    x, y = digits()

    def step(i: int) -> None:
        F.cross_entropy(model(x[:64]), y[:64]).backward()

    return Trial(model, [optimizer], step, 20)


def _permuted_labels(seed: int, told: bool, tasks: int = 40, per_task: int = 69) -> Trial:
    x, y = digits()
    g = torch.Generator().manual_seed(seed)
    names = [torch.randperm(10, generator=g) for _ in range(tasks)]
    model = mlp(64, 100, 100, 10)
    optimizer = optim.Adam(model.parameters(), 3e-3)

    def step(i: int) -> None:
        rows = torch.randint(len(x), (64,), generator=g)
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), names[i // per_task][y[rows]]).backward()
        optimizer.step()

    total = tasks * per_task
    edges = range(per_task, total, per_task) if told else ()
    return Trial(model, [optimizer], step, total, boundaries=edges, readings=270)


@sick("loss-of-plasticity", "dormant-units")
def permuted_labels(seed: int) -> Trial:
    return _permuted_labels(seed, told=True)


@sick("loss-of-plasticity", "dormant-units")
def permuted_labels_untold(seed: int) -> Trial:
    return _permuted_labels(seed, told=False)


@sick("stability-gap")
def switch_with_rehearsal(seed: int) -> Trial:
    """Five classes, then the other five at the same rate, with every old item still rehearsed: lost and found again."""
    x, y = digits()
    old, new = (torch.nonzero((y >= 5) == late)[:, 0] for late in (False, True))
    g = torch.Generator().manual_seed(seed)
    model = mlp(64, 100, 100, 10)
    optimizer = optim.SGD(model.parameters(), 0.3)

    def step(i: int) -> None:
        rows = old[torch.randint(len(old), (64,), generator=g)]
        if i >= 300:
            rows = torch.cat([rows, new[torch.randint(len(new), (64,), generator=g)]])
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()

    sets = {name: (x[rows[:256]], y[rows[:256]]) for name, rows in (("digits 0-4", old), ("digits 5-9", new))}
    return Trial(model, [optimizer], step, 400, boundaries=(300,), readings=200, tasks=(sets, F.cross_entropy))
