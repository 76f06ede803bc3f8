"""What streams of tasks share: which task a step belongs to, which items its batch holds, and their order."""

from __future__ import annotations

import bisect
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from homeostat.core.component import option
from homeostat.core.draw import Draw
from homeostat.core.errors import BadInput, BadSetting
from homeostat.core.stream import Stream
from homeostat.streams.data import Data, resolve


@dataclass(frozen=True, kw_only=True)
class TaskStream(Stream, abstract=True):
    """A row of tasks over the same data. Each task is `epochs` passes over its items, shuffled anew for every pass.

    The last batch of a pass is smaller where the items do not divide by `batch_size`, so a pass shows every item once.

    Settings:
        data: "digits", the path of an MNIST-format folder, or `arrays(inputs, labels)`.
        tasks: how many.
        epochs: passes over the items in each task.
        items: how many items to use, chosen by the seed; 0 uses all.
    """

    data: Data | str | Path = field(default="digits")
    tasks: int = option(100)
    epochs: int = option(1)
    items: int = option(0)

    counts: ClassVar[tuple[str, ...]] = ("batch_size", "tasks", "epochs")

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting in self.counts:
            whole(self.name, setting, getattr(self, setting), 1)
        whole(self.name, "items", self.items, 0)
        whole(self.name, "seed", self.seed, None)

    @cached_property
    def source(self) -> Data:
        """The data behind the stream: every item, or the `items` the seed chose."""
        full = resolve(self.data)
        if self.items > len(full):
            raise BadSetting(f"{self.name}.items is {self.items}, but {full.name} has only {len(full)} items")
        if not self.items:
            return full
        chosen = _order(self.seed, (self.name, "items"), len(full))[: self.items]
        return Data(full.inputs[chosen], full.labels[chosen], full.classes, full.name)

    @property
    def count(self) -> int:
        """How many tasks there are."""
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
        """Number of the task at `step`, also where the change between tasks is gradual.

        Raises:
            BadInput: the step is outside the stream.
        """
        return bisect.bisect_right(self.starts, check_step(self, step)) - 1

    def members(self, task: int) -> Tensor:
        """Indices into `source` of the items the task shows, int64 [n]."""
        return _everything(len(self.source))

    @abstractmethod
    def pairs(self, step: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the items at `index`, as the task at `step` has them."""

    @abstractmethod
    def concept(self, step: int) -> Tensor:
        """What ties inputs to targets at `step`, as numbers: constant between boundaries, another after each."""

    def chosen(self, step: int) -> Tensor:
        """Indices into `source` of the items in the batch at `step`."""
        task = self.segment(step)
        members = self.members(task)
        epoch, place = divmod(step - self.starts[task], -(-len(members) // self.batch_size))
        order = _order(self.seed, (self.name, "order", task, epoch), len(members))
        return members[order[place * self.batch_size : (place + 1) * self.batch_size]]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self.pairs(step, self.chosen(step))

    def whole(self, task: int) -> tuple[Tensor, Tensor]:
        """Every item of a task in one batch, as its last step has them: for evaluation at a task's end.

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
    """The step, when it is one of the stream's.

    Raises:
        BadInput: it is not a whole number from 0 to the last step.
    """
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < len(stream):
        raise BadInput(f"{stream.name} has steps 0 to {len(stream) - 1}, got {step!r}")
    return step


def whole(owner: str, setting: str, value: object, low: int | None) -> None:
    """Refuse a setting that is not a whole number of at least `low`.

    Raises:
        BadSetting: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or (low is not None and value < low):
        floor = "" if low is None else f" of at least {low}"
        raise BadSetting(f"{owner}.{setting} must be a whole number{floor}, got {value!r}")


def permutation(seed: int, path: tuple[object, ...], task: int, size: int) -> Tensor:
    """The permutation of `size` things that belongs to a task, int64 [size]. Task 0 has the identity.

    Even tasks draw among the even permutations and odd tasks among the odd ones, so that two neighbouring tasks never
    have the same one, however few things there are, and no task has to know another.
    """
    if task == 0:
        return torch.arange(size)
    return _permutation(seed, path, task, size)


@lru_cache(maxsize=16)
def _permutation(seed: int, path: tuple[object, ...], task: int, size: int) -> Tensor:
    drawn = _order(seed, (*path, "permutation", task), size).clone()
    if size > 1 and _is_odd(drawn) != bool(task % 2):
        drawn[:2] = drawn[:2].flip(0)
    return drawn


def _is_odd(order: Tensor) -> bool:
    """Parity of a permutation: a cycle of length n is n - 1 swaps."""
    after, seen, odd = order.tolist(), set(), False
    for start in range(len(after)):
        place = start
        while place not in seen:
            seen.add(place)
            place = after[place]
            odd ^= place != start
    return odd


@lru_cache(maxsize=16)
def _order(seed: int, path: tuple[object, ...], size: int) -> Tensor:
    return torch.randperm(size, generator=Draw(seed, ("stream", *path)).generator("order"))


@lru_cache(maxsize=4)
def _everything(size: int) -> Tensor:
    return torch.arange(size)
