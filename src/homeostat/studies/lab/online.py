"""Shared code of studies of online class-incremental learning with a memory, for all seeds of a block at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from homeostat.core.random import Draw
from homeostat.fleet import Fleet
from homeostat.streams import ClassIncremental
from homeostat.streams.data import Data
from homeostat.studies.lab.forgetting import Diary, held_out, shifted
from homeostat.studies.lab.many_seeds import fleet_of, stacked
from homeostat.studies.lab.training import ArmSetup


class Reservoirs:
    """Reservoir sampling for R seeds: every item seen so far is equally likely to be kept (Vitter, 1985).

    Args:
        size: largest number of items.
        seeds: of storing and recalling.
    """

    def __init__(self, size: int, seeds: Sequence[int]) -> None:
        self.size, self.seen = size, 0
        self.held = torch.zeros(len(seeds), size, dtype=torch.int64)
        self._generators = [Draw(seed, ("study", "reservoir")).generator("items") for seed in seeds]
        self._rows = torch.arange(len(seeds))

    def add(self, items: Tensor) -> None:
        """Offer items [R, B], numbers in the data of each seed."""
        chances = self._uniform(items.shape[1])
        for item, chance in zip(items.unbind(1), chances.unbind(1), strict=True):
            self.seen += 1
            if self.seen <= self.size:
                self.held[:, self.seen - 1] = item
                continue
            place = (chance * self.seen).long()
            kept = place < self.size
            self.held[self._rows[kept], place[kept]] = item[kept]

    def recall(self, count: int) -> Tensor:
        """Different items of each seed, up to the given number: [R, n]."""
        filled = min(self.seen, self.size)
        return self.held.gather(1, self._uniform(filled).argsort(1)[:, :count])

    def _uniform(self, count: int) -> Tensor:
        return torch.stack([torch.rand(count, generator=g, dtype=torch.float64) for g in self._generators])


@dataclass(frozen=True)
class Rehearsal:
    """How an online learner rehearses.

    Args:
        memory: items in the reservoir, those of the current task included; 0 for none.
        replay: rehearsed items of a step.
        asymmetric: the loss of new items is over the classes of their batch, that of rehearsed ones over all classes,
            and both are added: ER-ACE (Caccia et al., 2022, arXiv:2104.05025). Otherwise the loss is the mean over all
            items of the step.
    """

    memory: int = 200
    replay: int = 10
    asymmetric: bool = False


class OnlineTasks:
    """Split data of R seeds: in each task the items of two new classes, once, and held-out items of every task.

    Args:
        data: all items; a quarter is held out, the others are shown with their four shifts by a pixel.
        sizes: "steps" of a task, "batch_size", and "judged": held-out items of a task.
    """

    def __init__(self, data: Data, seeds: Sequence[int], sizes: Mapping[str, Any]) -> None:
        parts = [held_out(data, seed) for seed in seeds]
        shown = [shifted(learn) for learn, _ in parts]
        self.seeds, self.sizes, self.classes = tuple(seeds), sizes, data.classes
        self.inputs, self.labels = stacked([(one.inputs, one.labels) for one in shown])
        pairs = list(zip(shown, seeds, strict=True))
        self._streams = [ClassIncremental(data=d, seed=s, batch_size=sizes["batch_size"]) for d, s in pairs]
        exams = [ClassIncremental(data=judge, seed=seed) for (_, judge), seed in zip(parts, seeds, strict=True)]
        self.count, most = exams[0].count, sizes["judged"]
        wholes = [[tuple(part[:most] for part in exam.whole(task)) for exam in exams] for task in range(self.count)]
        shortest = min(len(y) for task in wholes for _, y in task)
        self.exams = [stacked([(x[:shortest], y[:shortest]) for x, y in task]) for task in wholes]
        self._rows = torch.arange(len(seeds)).unsqueeze(1)

    def items(self, task: int, step: int) -> Tensor:
        """Numbers of the items of a step of a task [R, B]."""
        return torch.stack([stream.chosen(stream.starts[task] + step) for stream in self._streams])

    def pairs(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs [R, B, ...] and labels [R, B] of items."""
        return self.inputs[self._rows, items], self.labels[self._rows, items]


def learn_online(setup: ArmSetup, way: Rehearsal, tasks: OnlineTasks, rate: float) -> tuple[list[Diary], Fleet]:
    """Learn all tasks with plain SGD; the accuracies of every seed, on all tasks met so far, are noted every
    `sizes["every"]` steps and at the end of a task."""
    sizes, seeds = tasks.sizes, tasks.seeds
    plain = ArmSetup(setup.says, setup.treatments, optimizer=SGD)
    fleet = fleet_of(plain, tasks.inputs.shape[2], sizes["widths"], tasks.classes, rate, seeds)
    memory, diaries, done = Reservoirs(way.memory, seeds), [Diary() for _ in seeds], 0
    for task in range(tasks.count):
        if task:
            fleet.boundary()
        for step in range(sizes["steps"]):
            new = tasks.items(task, step)
            both = torch.cat([new, memory.recall(way.replay)], 1) if way.memory and memory.seen else new
            inputs, targets = tasks.pairs(both)
            if way.asymmetric:
                fleet.learn(_asymmetric(fleet(inputs), targets, new.shape[1]))
            else:
                fleet.step(inputs, targets)
            if way.memory:
                memory.add(new)
            done += 1
            if done % sizes["every"] == 0 or step + 1 == sizes["steps"]:
                _note(diaries, done, fleet, tasks.exams[: task + 1])
    return diaries, fleet


def _asymmetric(outputs: Tensor, targets: Tensor, new: int) -> Tensor:
    """The loss of ER-ACE [R]; the first `new` items of a step are new."""
    present = nn.functional.one_hot(targets[:, :new], outputs.shape[-1]).any(1).unsqueeze(1)
    masked = outputs[:, :new].masked_fill(~present, -1e9)
    losses = _mean_loss(masked, targets[:, :new])
    return losses + _mean_loss(outputs[:, new:], targets[:, new:]) if targets.shape[1] > new else losses


def _mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    each = nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
    return each.view_as(targets).mean(1)


def _note(diaries: Sequence[Diary], step: int, fleet: Fleet, exams: Sequence[tuple[Tensor, Tensor]]) -> None:
    inputs, targets = torch.cat([x for x, _ in exams], 1), torch.cat([y for _, y in exams], 1)
    with fleet.evaluation():
        correct = (fleet(inputs).argmax(-1) == targets).double()
    found = torch.stack([part.mean(1) for part in correct.chunk(len(exams), 1)], 1)
    for diary, accuracies in zip(diaries, found.tolist(), strict=True):
        diary.note(step, accuracies)
