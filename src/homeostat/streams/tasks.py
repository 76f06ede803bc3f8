"""Common part of streams of tasks: the task of a step, the items of its batch, and their order."""

from __future__ import annotations

import bisect
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from homeostat.core.component import integer
from homeostat.core.errors import BadInput, BadSetting
from homeostat.core.random import Draw
from homeostat.core.stream import Stream
from homeostat.streams.data import Data, resolve


@dataclass(frozen=True, kw_only=True)
class TaskStream(Stream, abstract=True):
    """A sequence of tasks on the same data. Each task is `epochs` passes over its items, reshuffled for every pass.

    A pass shows every item once; its last batch may be smaller than `batch_size`.

    Settings:
        data: "digits", the path of an MNIST-format folder, or `arrays(inputs, labels)`.
        tasks: number of tasks.
        epochs: passes over the items in each task.
        items: number of items, drawn by the seed; 0 means all.
    """

    data: Data | str | Path = field(default="digits")
    tasks: int = integer(100)
    epochs: int = integer(1)
    items: int = integer(0, low=0)

    @cached_property
    def source(self) -> Data:
        """The data of the stream: all items, or `items` of them drawn by the seed."""
        full = resolve(self.data)
        if self.items > len(full):
            raise BadSetting(f"{self.name}.items is {self.items}, but {full.name} has only {len(full)} items")
        if not self.items:
            return full
        chosen = shuffled(self.seed, (self.name, "items"), len(full))[: self.items]
        return Data(full.inputs[chosen], full.labels[chosen], full.classes, full.name)

    @property
    def count(self) -> int:
        """Number of tasks."""
        return self.tasks

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First step of every task, and the end of the last."""
        passes = (-(-len(self.members(task)) // self.batch_size) for task in range(self.count))
        return (0, *accumulate(self.epochs * n for n in passes))

    @property
    def boundaries(self) -> tuple[int, ...]:
        return self.starts[1:-1]

    def __len__(self) -> int:
        return self.starts[-1]

    def segment(self, step: int) -> int:
        """Number of the task at `step`, also if the change between tasks is gradual.

        Raises:
            BadInput: the step is outside the stream.
        """
        return bisect.bisect_right(self.starts, check_step(self, step)) - 1

    def members(self, task: int) -> Tensor:
        """Indices into `source` of the task's items, int64 [n]."""
        return _everything(len(self.source))

    @abstractmethod
    def pairs(self, step: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the items at `index` in the task at `step`."""

    @abstractmethod
    def concept(self, step: int) -> Tensor:
        """The relation of inputs and targets at `step` as numbers; constant between boundaries."""

    def chosen(self, step: int) -> Tensor:
        """Indices into `source` of the items in the batch at `step`."""
        task = self.segment(step)
        members = self.members(task)
        epoch, place = divmod(step - self.starts[task], -(-len(members) // self.batch_size))
        order = shuffled(self.seed, (self.name, "order", task, epoch), len(members))
        return members[order[place * self.batch_size : (place + 1) * self.batch_size]]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self.pairs(step, self.chosen(step))

    def whole(self, task: int) -> tuple[Tensor, Tensor]:
        """All items of a task in one batch, as in its last step, for evaluation at the end of the task.

        Raises:
            BadInput: there is no such task.
        """
        if not 0 <= task < self.count:
            raise BadInput(f"{self.name} has tasks 0 to {self.count - 1}, got {task}")
        return self.pairs(self.starts[task + 1] - 1, self.members(task))

    def settings(self) -> dict[str, Any]:
        named = self.data.name if isinstance(self.data, Data) else str(self.data)
        return {**super().settings(), "data": named}


def check_step(stream: Stream, step: int) -> int:
    """The step, if the stream has it.

    Raises:
        BadInput: it is not an integer from 0 to the last step.
    """
    given = cast(object, step)
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= step < len(stream):
        raise BadInput(f"{stream.name} has steps 0 to {len(stream) - 1}, got {step!r}")
    return step


def permutation(seed: int, path: tuple[object, ...], task: int, size: int) -> Tensor:
    """The permutation of `size` elements of a task, int64 [size]. Task 0 has the identity.

    Even tasks have even permutations, odd tasks odd ones. So two successive tasks always differ, and each permutation
    can be computed without the others.
    """
    if task == 0:
        return torch.arange(size)
    return _permutation(seed, path, task, size)


@lru_cache(maxsize=16)
def _permutation(seed: int, path: tuple[object, ...], task: int, size: int) -> Tensor:
    drawn = shuffled(seed, (*path, "permutation", task), size).clone()
    if size > 1 and _is_odd(drawn) != bool(task % 2):
        drawn[:2] = drawn[:2].flip(0)
    return drawn


def _is_odd(order: Tensor) -> bool:
    """Parity of a permutation: a cycle of length n is n - 1 swaps."""
    after, seen, odd = [int(place) for place in order], set[int](), False
    for start in range(len(after)):
        place = start
        while place not in seen:
            seen.add(place)
            place = after[place]
            odd ^= place != start
    return odd


@lru_cache(maxsize=16)
def shuffled(seed: int, path: tuple[object, ...], size: int) -> Tensor:
    """A permutation of `size` items that depends on the seed and the path alone."""
    return torch.randperm(size, generator=Draw(seed, ("stream", *path)).generator("order"))


@lru_cache(maxsize=4)
def _everything(size: int) -> Tensor:
    return torch.arange(size)
