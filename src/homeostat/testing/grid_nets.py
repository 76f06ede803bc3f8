"""The networks of the grid that are not chains of layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations


class Tied(nn.Module):
    """An embedding whose table is also the head's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.fc1, self.act, self.fc2 = nn.Embedding(10, 6), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6)
        self.head = nn.Linear(6, 10, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.fc2(self.act(self.fc1(self.emb(tokens).mean(1)))))


class Twice(nn.Module):
    """One module called twice in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.out = nn.Linear(5, 7), nn.Linear(7, 7), nn.Linear(7, 3)
        self.a0 = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.a0(self.first(inputs))
        return self.out(torch.tanh(self.shared(torch.tanh(self.shared(hidden)))))


class Heads(nn.Module):
    """A trunk with two heads, as an actor and its critic have."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.act = nn.Linear(5, 11), nn.ReLU()
        self.policy, self.value = nn.Linear(11, 3), nn.Linear(11, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.act(self.trunk(inputs))
        return torch.cat([self.policy(hidden), self.value(hidden)], 1)


class Parametrized(nn.Module):
    """A layer with weight normalisation between two plain layers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act1 = nn.Linear(5, 10), nn.ReLU()
        self.fc2, self.act2 = parametrizations.weight_norm(nn.Linear(10, 8)), nn.ReLU()
        self.fc3, self.act3, self.out = nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(self.act3(self.fc3(self.act2(self.fc2(self.act1(self.fc1(inputs)))))))


class Embedded(nn.Module):
    """An embedding of tokens, and a layer that mixes positions."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.fc, self.act, self.out = nn.Embedding(12, 6), nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.act(self.fc(self.emb(tokens)))).mean(1)


class Recurrent(nn.Module):
    """A GRU whose last state feeds a small network."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.fc, self.act = nn.GRU(5, 6, batch_first=True), nn.Linear(6, 8), nn.ReLU()
        self.out = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        states, _ = self.gru(inputs)
        return self.out(self.act(self.fc(states[:, -1])))


class Gated(nn.Module):
    """A gated block, as language models have: down(silu(gate(x)) * up(x)), with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.up = nn.Linear(5, 6), nn.Linear(6, 10, bias=False), nn.Linear(6, 10, bias=False)
        self.mix, self.down, self.head = nn.Identity(), nn.Linear(10, 6, bias=False), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.stem(inputs)
        return self.head(x + self.down(self.mix(F.silu(self.gate(x)) * self.up(x))))


class Adapted(nn.Module):
    """A frozen layer with a trainable low-rank adapter (LoRA)."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.a, self.b = nn.Linear(5, 9), nn.Linear(5, 2, bias=False), nn.Linear(2, 9, bias=False)
        self.act, self.fc, self.act2, self.out = nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3)
        self.base.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.act(self.base(inputs) + self.b(self.a(inputs)))
        return self.out(self.act2(self.fc(hidden)))


def grouped() -> nn.Module:
    """Grouped convolutions: a unit is used only by the filters of its own group."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def narrow() -> nn.Module:
    """Layers of a single unit."""
    return nn.Sequential(nn.Linear(5, 1), nn.Tanh(), nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 3))


def lazy_activations() -> nn.Module:
    """A chain of layers with in-place nonlinearities."""
    return nn.Sequential(
        nn.Linear(5, 10), nn.ReLU(inplace=True), nn.Dropout(0.0), nn.Linear(10, 6), nn.LeakyReLU(0.1), nn.Linear(6, 3)
    )
