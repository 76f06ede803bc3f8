"""Permuted pixels and permuted labels: every task permutes the inputs or the labels of the same items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from homeostat.core.component import Cite, option
from homeostat.core.errors import BadSetting
from homeostat.core.random import Draw
from homeostat.streams.tasks import TaskStream, permutation

_DOHARE = Cite.of("continual-backprop")


@dataclass(frozen=True, kw_only=True)
class _Permuted(TaskStream, abstract=True):
    """Tasks that differ by one permutation; the change may be abrupt or gradual.

    Settings:
        gradual: share of each task, at its beginning, in which items change one by one from the old permutation to the
            new one (0: all at once; 1: throughout the task). Each item changes once, at a random time, so the
            probability that an item has changed rises linearly from 0 to 1. This shows whether loss of plasticity
            depends on abrupt changes.
    """

    gradual: float = option(0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = cast(object, self.gradual)
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given <= 1:
            raise BadSetting(f"{self.name}.gradual must be a number in [0, 1] (share of a task), got {given!r}")

    @property
    def width(self) -> int:
        """Number of permuted elements."""
        raise NotImplementedError

    @property
    def boundaries(self) -> tuple[int, ...]:
        """First steps of the tasks; empty when the change is gradual."""
        return () if self.gradual else super().boundaries

    def concept(self, step: int) -> Tensor:
        """The permutation of the task at `step`, int64."""
        return self.mapping(self.segment(step))

    def mapping(self, task: int) -> Tensor:
        """The permutation of a task, int64 [width]; the identity for task 0."""
        return permutation(self.seed, (self.name,), task, self.width)

    def moved(self, step: int, index: Tensor) -> Tensor:
        """Which items already have the new permutation at `step`, bool [n]; the others have the previous one."""
        task = self.segment(step)
        window = self.gradual * (self.starts[task + 1] - self.starts[task])
        done = (step - self.starts[task] + 1) / window if window and task else 1.0
        if done >= 1.0:
            return torch.ones(len(index), dtype=torch.bool)
        place = Draw(self.seed, ("stream", self.name, task)).uniform("moves", torch.empty(len(self.source)))
        return place[index] < done


@dataclass(frozen=True, kw_only=True)
class PermutedPixels(_Permuted):
    """Every task permutes the pixels of the same images. Labels do not change.

    Pixel j of an input is pixel `mapping(task)[j]` of the original image; inputs keep their shape.

    Source: the problem of Goodfellow et al. (2013, arXiv:1312.6211), as the online stream of Dohare et al. (2024).

    >>> PermutedPixels(tasks=3, items=100, batch_size=25).boundaries
    (4, 8)
    """

    cite = (
        _DOHARE,
        Cite("Goodfellow et al.", 2013, "An empirical investigation of catastrophic forgetting", "1312.6211"),
    )

    @property
    def width(self) -> int:
        return self.source.inputs[0].numel()

    def pairs(self, step: int, index: Tensor) -> tuple[Tensor, Tensor]:
        images, task = self.source.inputs[index], self.segment(step)
        flat = images.flatten(1)
        shown, moved = flat[:, self.mapping(task)], self.moved(step, index)
        if not moved.all():
            shown = torch.where(moved[:, None], shown, flat[:, self.mapping(task - 1)])
        return shown.reshape(images.shape), self.source.labels[index]


@dataclass(frozen=True, kw_only=True)
class PermutedLabels(_Permuted):
    """Every task permutes the labels of the same images. Inputs do not change.

    An item of class c has the target `mapping(task)[c]`.

    Source: the label-permuted problems of Kumar, Marklund and Van Roy (2023, arXiv:2308.11958).

    >>> PermutedLabels(tasks=2, items=50, batch_size=25).boundaries
    (2,)
    """

    cite = (
        Cite.of("l2-init"),
        _DOHARE,
    )
    entries = ("continual-backprop", "spectral-regularization")

    @property
    def width(self) -> int:
        return self.source.classes

    def pairs(self, step: int, index: Tensor) -> tuple[Tensor, Tensor]:
        labels, task = self.source.labels[index], self.segment(step)
        named, moved = self.mapping(task)[labels], self.moved(step, index)
        if not moved.all():
            named = torch.where(moved, named, self.mapping(task - 1)[labels])
        return self.source.inputs[index], named
