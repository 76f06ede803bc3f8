"""What a lifetime of learning adds up to: every metric of continual learning that a log of scores allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from homeostat.core.errors import BadInput
from homeostat.report.score_log import Score, accuracy_matrix, accuracy_timeline, lifetime, segments
from homeostat.vitals.continual import accuracy_matrix as matrices
from homeostat.vitals.continual import lifelong
from homeostat.vitals.continual.continual import (
    Timeline,
    minimum_accuracy,
    stability_gaps,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_accuracy,
)

Curves = Mapping[str, Sequence[Sequence[float]]]

_ONCE = {
    "average-accuracy": "on all tasks at the end",
    "anytime-accuracy": "on the tasks met so far, mean over the ends of tasks",
    "learning-accuracy": "on each task right after training on it",
    "forgetting": "best accuracy on an earlier task minus that at the end",
    "backward-transfer": "accuracy on an earlier task at the end minus that right after training on it",
    "forward-transfer": "accuracy on a task right before training on it minus that before any training",
    "minimum-accuracy": "lowest accuracy on a task since its end",
    "worst-case-accuracy": "mean of the last task's accuracy and the lowest of every ended task",
    "windowed-forgetting": "largest fall of a task's accuracy within the window",
    "windowed-plasticity": "largest rise of a task's accuracy within the window",
    "stability-gap-depth": "fall of an ended task's accuracy after a switch",
    "stability-gap-length": "steps until nine tenths of that fall were recovered",
}
_LIFETIME = {
    "performance-maintenance": "score minus that of the first evaluation after the task's last training",
    "forward-transfer-contrast": "(after - before) / (after + before) training another task, before its own",
    "forward-transfer-ratio": "after / before training another task, before its own",
    "backward-transfer-contrast": "(after - before) / (after + before) training another task, after its own",
    "backward-transfer-ratio": "after / before training another task, after its own",
    "relative-performance": "sum of training scores over a single-task expert's",
    "sample-efficiency": "saturation over the expert's, times the expert's experiences to it over ours",
}
MEANING = _ONCE | _LIFETIME
"""Metric -> what it is the mean of. Those of `_ONCE` need each task to be trained in one piece."""

_RECURRING = "task {!r} is trained more than once"
_NO_EXPERT = "it needs learning experiences, and an expert's learning curve"
_NO_EVALUATIONS = "there are not the evaluations that it needs"


@dataclass(frozen=True)
class Metric:
    """One metric of a lifetime.

    Args:
        name: a key of `MEANING`.
        value: mean over tasks or pairs; NaN if it cannot be computed.
        parts: the values of tasks, or of "trained -> evaluated" pairs, where the metric has them.
        missing: why there is no value.
    """

    name: str
    value: float
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    missing: str = ""


def summarise(scores: Sequence[Score], experts: Curves | None = None, window: int = 10) -> list[Metric]:
    """All metrics of a log, in the order of `MEANING`.

    Args:
        scores: the log.
        experts: task -> learning curves of single-task experts, for the last two metrics.
        window: successive evaluations for windowed forgetting and plasticity, at least 2.

    Raises:
        BadInput: no task was trained, or the window is too short.
    """
    order = [task for task, _ in segments(scores)]
    if not order:
        raise BadInput("these scores name no task that was trained")
    twice = next((task for n, task in enumerate(order) if task in order[:n]), None)
    if twice is None:
        once = _of_matrix(scores) + _of_timeline(accuracy_timeline(scores), window)
    else:
        once = [Metric(name, math.nan, {}, _RECURRING.format(twice)) for name in _ONCE]
    return once + _of_lifetime(lifetime(scores), experts or {})


def _of_matrix(scores: Sequence[Score]) -> list[Metric]:
    tasks, matrix, untrained = accuracy_matrix(scores)
    return [
        _metric("average-accuracy", matrices.average_accuracy(matrix), _by_task(tasks, matrix[-1])),
        _metric("anytime-accuracy", matrices.anytime_accuracy(matrix)),
        _metric("learning-accuracy", matrices.learning_accuracy(matrix), _by_task(tasks, matrix.diagonal())),
        _metric("forgetting", matrices.forgetting(matrix)),
        _metric("backward-transfer", matrices.backward_transfer(matrix)),
        _metric("forward-transfer", matrices.forward_transfer(matrix, untrained)),
    ]


def _of_timeline(found: Timeline, window: int) -> list[Metric]:
    gaps = list(stability_gaps(found).values())
    depth, length = ([getattr(gap, part) for gap in gaps] for part in ("depth", "length"))
    return [
        _metric("minimum-accuracy", minimum_accuracy(found)),
        _metric("worst-case-accuracy", worst_case_accuracy(found)),
        _metric("windowed-forgetting", windowed_forgetting(found, window)),
        _metric("windowed-plasticity", windowed_plasticity(found, window)),
        _metric("stability-gap-depth", torch.stack(depth).nanmean() if depth else math.nan),
        _metric("stability-gap-length", torch.stack(length).nanmean() if length else math.nan),
    ]


def _of_lifetime(life: lifelong.Lifetime, experts: Curves) -> list[Metric]:
    kept = {"performance-maintenance": lifelong.performance_maintenance(life)}
    for forward in (True, False):
        for ratio in (False, True):
            name = f"{'forward' if forward else 'backward'}-transfer-{'ratio' if ratio else 'contrast'}"
            pairs = lifelong.transfer(life, forward=forward, ratio=ratio)
            kept[name] = {f"{trained} -> {task}": value for (trained, task), value in pairs.items()}
    expert = {
        "relative-performance": lifelong.relative_performance(life, experts),
        "sample-efficiency": lifelong.sample_efficiency(life, experts),
    }
    return [
        *(_metric(name, _mean(parts), parts) for name, parts in kept.items()),
        *(_metric(name, _mean(parts), parts, _NO_EXPERT) for name, parts in expert.items()),
    ]


def _metric(
    name: str, value: Tensor | float, parts: Mapping[str, float] | None = None, why: str = _NO_EVALUATIONS
) -> Metric:
    number = float(value)
    return Metric(name, number, parts or {}, why if math.isnan(number) else "")


def _mean(parts: Mapping[str, float]) -> float:
    return sum(parts.values()) / len(parts) if parts else math.nan


def _by_task(tasks: Sequence[str], values: Tensor) -> dict[str, float]:
    return {task: value for task, value in zip(tasks, values.tolist(), strict=True) if not math.isnan(value)}
