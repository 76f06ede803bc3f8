"""Shared code of studies that train the seeds of a block together, as a fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from homeostat.fleet import Fleet
from homeostat.streams.tasks import TaskStream
from homeostat.studies.lab.expectation import Measure
from homeostat.studies.lab.sequential import BLOCK
from homeostat.studies.lab.study import Study
from homeostat.studies.lab.training import ArmSetup, TaskScores


@dataclass(frozen=True, kw_only=True)
class FleetStudy(Study, abstract=True):
    """A study whose arms train all seeds of a block at once: a subclass has `run_many` in place of `run`."""

    seeds_at_once: ClassVar[int] = BLOCK

    def run(self, arm: str, seed: int, budget: str) -> dict[str, Measure]:
        return self.run_many(arm, (seed,), budget)[0]


def fleet_of(
    setup: ArmSetup, inputs: int, widths: Sequence[int], outputs: int, rate: float, seeds: Sequence[int], **more: Any
) -> Fleet:
    """The networks of an arm, one for each seed, with its optimizer and treatments and without measurements."""
    return Fleet(
        lambda: setup.network(inputs, widths, outputs),
        optimizer=partial(setup.optimizer, lr=rate),
        seeds=seeds,
        treatments=setup.treatments,
        vitals=(),
        **more,
    )


def stacked(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Inputs and targets of every seed as [R, N, ...] and [R, N]."""
    return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])


def task_batches(streams: Sequence[TaskStream], task: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a task, of every seed: inputs [R, B, ...], targets [R, B]."""
    rows = [[s.batch(step) for step in range(s.starts[task], s.starts[task + 1])] for s in streams]
    for pairs in zip(*rows, strict=True):
        yield stacked(pairs)


def right(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of items that are classified correctly [R], for outputs [R, N, C] and targets [R, N]."""
    return (outputs.argmax(-1) == targets).double().mean(1)


def accuracies_of(fleet: Fleet, inputs: Tensor, targets: Tensor) -> list[float]:
    """Accuracy of every replica on its items, in evaluation mode and with the weights that are evaluated."""
    with fleet.evaluation():
        return right(fleet(inputs), targets).tolist()


def train_fleet(
    fleet: Fleet, streams: Sequence[TaskStream], after_task: Callable[[int], None] = lambda task: None
) -> list[TaskScores]:
    """One pass through a stream of classification tasks with cross-entropy, for every seed.

    Args:
        after_task: called at the end of each task with its number.
    """
    scores = [TaskScores() for _ in streams]
    for task in range(streams[0].count):
        if task:
            fleet.boundary()
        online = torch.zeros(len(streams), dtype=torch.float64)
        items = 0
        for inputs, targets in task_batches(streams, task):
            outputs = fleet(inputs)
            losses = nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
            fleet.learn(losses.view_as(targets).mean(1))
            online += right(outputs.detach(), targets) * targets.shape[1]
            items += targets.shape[1]
        ends = accuracies_of(fleet, *stacked([stream.whole(task) for stream in streams]))
        for score, before, end in zip(scores, online.tolist(), ends, strict=True):
            score.online.append(before / items)
            score.end.append(end)
        after_task(task)
    return scores
