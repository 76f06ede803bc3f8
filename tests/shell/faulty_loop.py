"""A training loop whose run may be made to fail, and its untouched twin."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import homeostat

STEPS = 14


class Loop:
    """A user's script; `self.run` is None in the untouched twin."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(3)
        self.model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Dropout(0.3), nn.Linear(10, 8), nn.ReLU(),
                                   nn.Linear(8, 3))  # fmt: skip
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-2)
        plain = options.pop("plain", False)
        self.run = None if plain else homeostat.attach(self.model, self.optimizer, **{"every": 1, **options})

    def go(self, steps: int = STEPS) -> None:
        for _ in range(steps):
            inputs = torch.randn(16, 6)
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(inputs), inputs[:, :3].argmax(1)).backward()
            self.optimizer.step()

    def end(self) -> list[torch.Tensor]:
        moments = [v for s in self.optimizer.state.values() for v in s.values()]
        found = [p.clone() for p in (*self.model.state_dict().values(), *moments, torch.get_rng_state())]
        if self.run is not None:
            self.run.detach()
        return found


def untouched() -> list[torch.Tensor]:
    """What the loop ends with when Homeostat is not there."""
    loop = Loop(plain=True)
    loop.go()
    return loop.end()


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
