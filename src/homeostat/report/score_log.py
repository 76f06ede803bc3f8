"""Scores of tasks over a lifetime of learning: one log, whatever it comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from homeostat.record.reader import RunReader
from homeostat.vitals.continual.continual import Timeline, timeline
from homeostat.vitals.continual.lifelong import Learning, Lifetime

TRAIN, TEST = "train", "test"


@dataclass(frozen=True)
class Score:
    """One score.

    Args:
        step: when it was measured; never falls over a log.
        task: the task that was evaluated, or trained.
        value: accuracy, return or another score; larger is better.
        kind: "test" (an evaluation) or "train" (a learning experience).
        training: the task that was trained last, or None before any training.
    """

    step: float
    task: str
    value: float
    kind: str
    training: str | None


def from_record(reader: RunReader) -> list[Score]:
    """The values of the vital `task-accuracy`, with the run's boundaries.

    Raises:
        BadInput: the run did not measure it.
    """
    found = timeline(reader.vitals().get("task-accuracy", {}), [boundary.step for boundary in reader.boundaries()])
    ends, scores = found.ends.tolist(), list[Score]()
    for n, step in enumerate(found.steps.tolist()):
        current = next((task for task, end in zip(found.tasks, ends, strict=True) if step <= end), found.tasks[-1])
        values = zip(found.tasks, found.accuracy[:, n].tolist(), strict=True)
        scores += [Score(step, task, value, TEST, current) for task, value in values if not math.isnan(value)]
    return scores


def lifetime(scores: Sequence[Score]) -> Lifetime:
    """Learning blocks and the evaluations between them.

    With learning experiences in the log, blocks are as logged: an evaluation between two experiences ends a block, and
    the scores of a task in an evaluation block are averaged. Without, a block lasts while one task is trained, and the
    last evaluation in it counts.
    """
    learning: list[Learning] = []
    evaluations: list[dict[str, float]] = [{}]
    if any(score.kind == TRAIN for score in scores):
        for (kind, task), block in groupby(scores, lambda s: (s.kind, s.task if s.kind == TRAIN else "")):
            rows = list(block)
            if kind == TRAIN:
                learning.append(Learning(task, [row.value for row in rows]))
                evaluations.append({})
            else:
                tasks = {row.task for row in rows}
                evaluations[-1] |= {t: _mean([row.value for row in rows if row.task == t]) for t in sorted(tasks)}
        return Lifetime(learning, evaluations)
    for task, block in groupby(scores, lambda s: s.training):
        if task is not None:
            learning.append(Learning(task))
            evaluations.append({})
        evaluations[-1] |= {row.task: row.value for row in block}
    return Lifetime(learning, evaluations)


def segments(scores: Sequence[Score]) -> list[tuple[str, float]]:
    """The tasks in the order of training, each with the step of the last score in its part of the log."""
    parts = groupby((s for s in scores if s.training is not None), lambda s: s.training)
    return [(str(task), max(score.step for score in part)) for task, part in parts]


def accuracy_timeline(scores: Sequence[Score]) -> Timeline:
    """The evaluations of all trained tasks. Each task is trained in one segment; the last one has not ended."""
    parts = segments(scores)
    tests = [score for score in scores if score.kind == TEST]
    steps = sorted({score.step for score in tests})
    place = {step: n for n, step in enumerate(steps)}
    row = {task: n for n, (task, _) in enumerate(parts)}
    accuracy = torch.full((len(parts), len(steps)), math.nan, dtype=torch.float64)
    for score in tests:
        if score.task in row:
            accuracy[row[score.task], place[score.step]] = score.value
    ends = [end for _, end in parts[:-1]] + [math.inf]
    return Timeline(tuple(row), torch.tensor(steps), accuracy, torch.tensor(ends, dtype=torch.float64))


def accuracy_matrix(scores: Sequence[Score]) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """The trained tasks, their accuracy matrix [T, T], and the accuracies [T] before any training.

    Row i has the last score of every task while task i was trained. NaN where there is none.
    """
    tasks = tuple(task for task, _ in segments(scores))
    row = {task: n for n, task in enumerate(tasks)}
    table = torch.full((len(tasks) + 1, len(tasks)), math.nan, dtype=torch.float64)
    for score in scores:
        if score.kind == TEST and score.task in row:
            table[row[score.training] if score.training in row else -1, row[score.task]] = score.value
    return tasks, table[:-1], table[-1]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
