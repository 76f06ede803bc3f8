"""Random labels, drawn again for every task: the network can only memorise them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from homeostat.core.component import Cite, integer
from homeostat.core.random import Draw
from homeostat.streams.tasks import TaskStream


@dataclass(frozen=True, kw_only=True)
class RandomLabels(TaskStream):
    """Every item has a random label, uniform over the classes and drawn again for every task.

    The accuracy at the end of a task measures how well the network can still be trained, without generalisation.

    Settings:
        classes: number of labels; 0 means that of the data.

    Source: the memorisation problem of Lyle et al. (2023).

    >>> RandomLabels(tasks=2, items=50, batch_size=25).task(3)
    1
    """

    classes: int = integer(0, low=0)

    cite = Cite.of("plasticity-probe")

    def concept(self, step: int) -> Tensor:
        """The label of every item at `step`, int64 [items]."""
        return self.table(self.segment(step))

    def table(self, task: int) -> Tensor:
        """The label of every item in a task, int64 [items]."""
        generator = Draw(self.seed, ("stream", self.name, task)).generator("labels")
        return torch.randint(self.classes or self.source.classes, (len(self.source),), generator=generator)

    def pairs(self, step: int, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.source.inputs[index], self.concept(step)[index]
