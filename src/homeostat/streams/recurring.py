"""Recurrence: old tasks recur, with a frequency that falls with their age."""

# Torch's stubs leave `Tensor.unique` untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from homeostat.core.component import Cite, integer, option
from homeostat.core.errors import BadSetting
from homeostat.core.random import Draw
from homeostat.streams.tasks import TaskStream, permutation


@dataclass(frozen=True, kw_only=True)
class PowerLawRecurrence(TaskStream):
    """Permuted pixels with recurring old tasks. While task k is current, an item belongs to

        task j < k   with probability   rate * w(k - j) / sum over i < k of w(k - i),
        task k       with probability   1 - rate          (1 in task 0)

    w(a) = a ** -exponent, or exp(-exponent * a) if `profile` is "exponential". `exponent` 0 is uniform over old tasks.
    An item of task j has the pixels in the order of that task: pixel i of the input is pixel `mapping(j)[i]` of the
    original image. The images are shown in passes. `whole(task)` has items of that task only.

    Settings:
        rate: share of items that belong to old tasks.
        exponent: decay of the frequency with age (b in the paper).
        profile: "power", or "exponential", with which the paper compares.

    Source: Gandhi, Shah, Marupudi and Varma (2024), arXiv:2401.10393. The default exponent and rate (1 and a third) are
    our choice; the paper's values were not checked.

    Raises: BadSetting when `rate` is not in [0, 1], `exponent` not in [0, 16], or `profile` not one of the two.

    >>> PowerLawRecurrence(tasks=3, items=100, batch_size=25).boundaries
    (4, 8)
    """

    tasks: int = integer(10)
    rate: float = option(1 / 3)
    exponent: float = option(1.0)
    profile: str = option("power", choices=("power", "exponential"))

    cite = Cite.of("power-law-rehearsal")

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting, high in (("rate", 1.0), ("exponent", 16.0)):
            value = getattr(self, setting)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= high:
                raise BadSetting(f"{self.name}.{setting} must be a number in [0, {high:g}], got {value!r}")

    def mapping(self, task: int) -> Tensor:
        """The permutation of a task, int64 [pixels]; the identity for task 0."""
        return permutation(self.seed, (self.name,), task, self.source.inputs[0].numel())

    def concept(self, step: int) -> Tensor:
        """The permutation of the task that is current at `step`, int64 [pixels]."""
        return self.mapping(self.segment(step))

    def pairs(self, step: int, index: Tensor) -> tuple[Tensor, Tensor]:
        return self._shown(index, torch.full_like(index, self.segment(step)))

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self._shown(self.chosen(step), self.origins(step))

    def origins(self, step: int) -> Tensor:
        """The task that each item of the batch at `step` belongs to, int64 [n]."""
        task, count = self.segment(step), len(self.chosen(step))
        if not task:
            return torch.zeros(count, dtype=torch.int64)
        draw = Draw(self.seed, ("stream", self.name, step))
        old, which = draw.uniform("origin", torch.empty(2, count, dtype=torch.float64))
        bounds = self.weights(task).cumsum(0)
        past = torch.searchsorted(bounds, which * bounds[-1], right=True).clamp(max=task - 1)
        return torch.where(old < self.rate, past, task)

    def weights(self, task: int) -> Tensor:
        """Frequency of each old task while `task` is current, up to a factor: w(task - j), float64 [task].

        Relative to the most recent task, so that its weight does not underflow.
        """
        age = torch.arange(task, 0, -1, dtype=torch.float64)
        return age**-self.exponent if self.profile == "power" else torch.exp(-self.exponent * (age - 1))

    def _shown(self, index: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
        images = self.source.inputs[index]
        tasks, place = origin.unique(return_inverse=True)
        orders = torch.stack([self.mapping(int(task)) for task in tasks])
        return images.flatten(1).gather(1, orders[place]).reshape(images.shape), self.source.labels[index]
