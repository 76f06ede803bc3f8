"""The contract of a stream: a problem that changes, generated on demand from (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from homeostat.core.component import Component, option


@dataclass(frozen=True, kw_only=True)
class Stream(Component, abstract=True):
    """An endless or finite problem. `batch(step)` depends on the settings, the seed and the step alone.

    Settings:
        seed: everything random derives from it.
        batch_size: items a batch.
    """

    kind: ClassVar[str] = "stream"
    seed: int = option(0)
    batch_size: int = option(32)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Steps at which a new task starts (the first, 0, excluded); empty when it changes gradually or never."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Total number of batches."""
        raise NotImplementedError

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the batch at `step` (0-based)."""
        raise NotImplementedError

    def task(self, step: int) -> int:
        """Number of the task at `step`: how many boundaries are at or before it."""
        return sum(b <= step for b in self.boundaries)

    def concept(self, step: int) -> Tensor:
        """What ties inputs to targets at `step`, as numbers: the same between two boundaries, another after each."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.starting_at(0)

    def starting_at(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate from any step: the same batches as a run from the beginning would have seen."""
        return (self.batch(s) for s in range(step, len(self)))
