"""The contract of a stream: a problem that changes, generated from (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from homeostat.core.component import Component, integer


@dataclass(frozen=True, kw_only=True)
class Stream(Component, abstract=True):
    """An endless or finite problem. `batch(step)` depends on the settings, the seed and the step alone.

    Settings:
        seed: seed of all randomness.
        batch_size: number of items per batch.
    """

    kind: ClassVar[str] = "stream"
    seed: int = integer(0, low=None)
    batch_size: int = integer(32)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Steps at which a new task starts, except step 0; empty if the change is gradual or there is none."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Total number of batches."""
        raise NotImplementedError

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the batch at `step` (0-based)."""
        raise NotImplementedError

    def task(self, step: int) -> int:
        """Number of the task at `step`: the number of boundaries at or before it."""
        return sum(b <= step for b in self.boundaries)

    def concept(self, step: int) -> Tensor:
        """The relation of inputs and targets at `step` as numbers, constant between boundaries, else different."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.starting_at(0)

    def starting_at(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate from a step on: the same batches as in an iteration from the beginning."""
        return (self.batch(s) for s in range(step, len(self)))
