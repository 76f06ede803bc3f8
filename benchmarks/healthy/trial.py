"""What a run of the corpus is made of, and the small networks and data it uses."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Trial:
    """One training run, ready to go.

    Args:
        model, optimizers: what is attached.
        step: does optimizer step number i (0-based), with its own forward and backward pass.
        steps: how many.
        probe: ((inputs, targets), loss_fn) or None.
        boundaries: steps after which a new task starts, told to the run.
        tasks: (evaluation items of every task by name, loss_fn) or None.
        expected: conditions a sick run has by construction.
        readings: how often it is measured, None for the corpus's usual number.
    """

    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    step: Callable[[int], None]
    steps: int
    probe: Any = None
    boundaries: Sequence[int] = ()
    expected: tuple[str, ...] = field(default=())
    readings: int | None = None
    tasks: Any = None


def supervised(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[Tensor, Tensor],
    steps: int,
    *,
    batch: int = 64,
    loss: Loss = F.cross_entropy,
    schedule: Callable[[int], float] | None = None,
    clip: float | None = None,
    probe: bool = False,
    generator: torch.Generator | None = None,
) -> Trial:
    """Ordinary training on random batches of `data`; a batch of 0 takes all of it."""
    inputs, targets = data
    draw = generator or torch.Generator().manual_seed(int(torch.randint(1 << 30, ())))
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) if schedule else None

    def step(i: int) -> None:
        rows = torch.randint(len(inputs), (batch,), generator=draw) if batch else slice(None)
        optimizer.zero_grad()
        loss(model(inputs[rows]), targets[rows]).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if rates is not None:
            rates.step()

    if not probe:
        return Trial(model, [optimizer], step, steps)
    return Trial(model, [optimizer], step, steps, ((inputs[:128], targets[:128]), loss), readings=20)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 handwritten digits: [1797, 64] in 0..1, classes 0..9."""
    found = load_digits()
    return torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target)


@cache
def mnist(folder: str) -> tuple[Tensor, Tensor]:
    """The first 5,000 images of an MNIST-format folder: [5000, 784] in 0..1, and their classes."""
    images, labels = (next(Path(folder).glob(f"*{kind}*.gz")) for kind in ("images-idx3", "labels-idx1"))
    pixels = np.frombuffer(gzip.decompress(images.read_bytes())[16:], np.uint8).reshape(-1, 784)[:5000]
    classes = np.frombuffer(gzip.decompress(labels.read_bytes())[8:], np.uint8)[:5000]
    return torch.tensor(pixels / 255, dtype=torch.float32), torch.tensor(classes.astype(np.int64))


@cache
def diabetes() -> tuple[Tensor, Tensor]:
    """scikit-learn's diabetes data, standardised: a regression with much noise, [442, 10] -> [442, 1]."""
    found = load_diabetes()
    x, y = (torch.tensor(a, dtype=torch.float32) for a in (found.data, found.target[:, None]))
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()


def teacher(seed: int, inputs: int = 20, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Regression on a random two-layer network with noise: [2000, inputs] -> [2000, 1]."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2000, inputs, generator=g)
    first, second = torch.randn(inputs, 16, generator=g), torch.randn(16, 1, generator=g)
    y = torch.tanh(x @ first / inputs**0.5) @ second
    return x, y + noise * torch.randn(2000, 1, generator=g)


def mlp(*sizes: int, act: Callable[[], nn.Module] = nn.ReLU, norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    """A stack of linear layers with a nonlinearity between them."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(a, b))
        if i < len(sizes) - 2:
            layers += [nn.LayerNorm(b)] if norm else []
            layers.append(act())
            layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers)


def he(model: nn.Module, gain: float = 1.0) -> nn.Module:
    """He initialisation of every linear layer, times `gain`."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            layer.weight.data *= gain
            nn.init.zeros_(layer.bias)
    return model


def convnet(norm: bool = False) -> nn.Sequential:
    """Two convolutions and a linear head for 8x8 digits given as [N, 64]."""
    parts: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1)]
    parts += [nn.BatchNorm2d(16)] if norm else []
    parts += [nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)]
    return nn.Sequential(*parts)


class Residual(nn.Module):
    """A residual network with batch norm: digits -> 10 classes."""

    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(depth))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for first, norm, second in zip(self.first, self.norms, self.second, strict=True):
            x = x + second(torch.relu(norm(first(x))))
        return self.head(x)


class Transformer(nn.Module):
    """Two pre-norm blocks that predict the next of 16 tokens."""

    def __init__(self, width: int = 32, tokens: int = 16, length: int = 12) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(tokens, width), nn.Parameter(torch.randn(length, width) * 0.02)
        block = {"d_model": width, "nhead": 2, "dim_feedforward": 4 * width, "dropout": 0.0, "batch_first": True}
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(**block, norm_first=True) for _ in range(2))
        self.head = nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        h, mask = self.embed(x) + self.place, nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        for block in self.blocks:
            h = block(h, src_mask=mask)
        return self.head(h)


class Recurrent(nn.Module):
    """A GRU over the rows of an 8x8 digit."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(8, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x.reshape(-1, 8, 8))[0][:, -1])


def sequences(seed: int) -> tuple[Tensor, Tensor]:
    """Noisy arithmetic progressions modulo 16: tokens [2000, 12] and the next tokens, the task of the transformer."""
    g = torch.Generator().manual_seed(seed)
    start, stride = torch.randint(16, (2000, 1), generator=g), torch.randint(1, 5, (2000, 1), generator=g)
    tokens = (start + stride * torch.arange(13)) % 16
    return tokens[:, :-1], tokens[:, 1:]


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over every position."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
