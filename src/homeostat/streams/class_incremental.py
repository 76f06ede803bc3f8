"""Class-incremental streams: each task adds a few classes."""

# Torch's stubs leave `Tensor.unique` untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from homeostat.core.component import Cite, integer, option
from homeostat.core.errors import BadSetting
from homeostat.core.random import Draw
from homeostat.streams.tasks import TaskStream


@dataclass(frozen=True, kw_only=True)
class ClassIncremental(TaskStream):
    """Each task has the items of a few new classes. Targets keep their class numbers.

    Settings:
        tasks: number of tasks; 0 means all classes (classes divided by `per_task`, rounded up).
        per_task: number of new classes per task.
        cumulative: include the classes of earlier tasks (the growing set on which Dohare et al. saw loss of
            plasticity); otherwise only the new classes (the setting of studies of forgetting).
        shuffle: draw the order of the classes from the seed; otherwise they are ordered by number.

    Source: Rebuffi et al. (2017, arXiv:1611.07725); cumulative as in Dohare et al. (2024, arXiv:2306.13812).

    >>> ClassIncremental().boundaries
    (12, 24, 36, 48)
    """

    tasks: int = integer(0, low=0)
    per_task: int = integer(2)
    cumulative: bool = option(False)
    shuffle: bool = option(True)

    cite = (
        Cite("Rebuffi et al.", 2017, "iCaRL: incremental classifier and representation learning", "1611.07725"),
        Cite.of("continual-backprop"),
    )
    entries = ()  # a general protocol

    @cached_property
    def order(self) -> Tensor:
        """The classes with items, in the order of the stream, int64 [classes]."""
        present = self.source.labels.unique()
        if not self.shuffle:
            return present
        generator = Draw(self.seed, ("stream", self.name)).generator("classes")
        return present[torch.randperm(len(present), generator=generator)]

    @cached_property
    def count(self) -> int:  # type: ignore[override]
        most = -(-len(self.order) // self.per_task)
        if self.tasks > most:
            raise BadSetting(f"{self.name}.tasks is {self.tasks}, but {self.source.name} has classes for {most} only")
        return self.tasks or most

    def members(self, task: int) -> Tensor:
        return torch.isin(self.source.labels, self._shown(task)).nonzero().flatten()

    def concept(self, step: int) -> Tensor:
        """The classes of the task at `step`, int64, in the order of the stream."""
        return self._shown(self.segment(step))

    def _shown(self, task: int) -> Tensor:
        first = 0 if self.cumulative else task * self.per_task
        return self.order[first : (task + 1) * self.per_task]

    def pairs(self, step: int, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.source.inputs[index], self.source.labels[index]
