"""Summaries of accuracies over time: worst case, largest falls and rises in a window, stability gaps.

Pure functions of the series of the vital `task-accuracy`. Accuracies are [*R, T, N]: of T tasks at N evaluations, NaN
where a task was not evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from homeostat.core.errors import BadInput

Points = Sequence[tuple[int, float | None]]
"""[(step, value)], as in `run.vitals()["task-accuracy"]` for every task."""


class Gap(NamedTuple):
    """A stability gap: a temporary fall of the accuracy after a switch of tasks.

    Args:
        before: the last accuracy before the switch.
        depth: before minus the lowest accuracy after it, at least 0.
        length: steps from the switch until nine tenths of the depth were recovered; NaN ("missing") if they were not, 0
            if the accuracy did not fall.
        recovered: share of the depth that was recovered at the end; NaN if the accuracy did not fall.
    """

    before: Tensor
    depth: Tensor
    length: Tensor
    recovered: Tensor


@dataclass(frozen=True)
class Timeline:
    """Accuracies of the tasks at every evaluation.

    Args:
        tasks: their names.
        steps: of the evaluations, int64 [N], rising.
        accuracy: [*R, T, N].
        ends: step at which each task ended, float64 [T]; infinite if it has not ended.
    """

    tasks: tuple[str, ...]
    steps: Tensor
    accuracy: Tensor
    ends: Tensor

    @property
    def past(self) -> Tensor:
        """Which evaluations were after the end of a task, bool [T, N]."""
        return self.steps > self.ends[:, None]


def timeline(series: Mapping[str, Points], boundaries: Iterable[int]) -> Timeline:
    """Combine the series of a record.

    Args:
        series: task -> [(step, accuracy or None)], steps increasing.
        boundaries: the steps after which a new task began, from `run.boundaries()` or a record.

    A task ends at the first boundary after its first evaluation, because every task is evaluated from its first steps
    on and at its end. If a step was evaluated twice, the later value counts.

    Raises:
        BadInput: there are no tasks.

    >>> timeline({"a": [(1, 0.9), (2, 0.2)], "b": [(2, 1.0)]}, [1]).past
    tensor([[False,  True],
            [False, False]])
    """
    if not series:
        raise BadInput("there are no accuracies of tasks: measure the vital task-accuracy, with attach(tasks=...)")
    boundaries = sorted(boundaries)
    tasks = tuple(sorted(series, key=lambda task: series[task][0][0] if series[task] else math.inf))
    steps = sorted({step for points in series.values() for step, _ in points})
    place = {step: n for n, step in enumerate(steps)}
    accuracy = torch.full((len(tasks), len(steps)), math.nan, dtype=torch.float64)
    for row, task in enumerate(tasks):
        for step, value in series[task]:
            accuracy[row, place[step]] = math.nan if value is None else value
    firsts = [series[task][0][0] if series[task] else math.inf for task in tasks]
    ends = [min((b for b in boundaries if b >= first), default=math.inf) for first in firsts]
    return Timeline(tasks, torch.tensor(steps), accuracy, torch.tensor(ends, dtype=torch.float64))


def minimum_accuracy(found: Timeline) -> Tensor:
    """Average minimum accuracy, float64 [*R]: lowest accuracy since its end of each ended task, mean over tasks.

        min-ACC = 1/(k-1) sum_{i<k} min { A(E_i, f_n) : |T_i| < n <= t }

    NaN if no task has been evaluated after its end.

    Source: De Lange, van de Ven and Tuytelaars (2022), arXiv:2205.13452, section 3.

    >>> float(minimum_accuracy(timeline({"a": [(1, 0.9), (2, 0.2), (3, 0.8)], "b": [(2, 1.0)]}, [1])))
    0.2
    """
    lowest = _over(found.accuracy, found.past, math.inf).amin(-1)
    return torch.where(lowest.isfinite(), lowest, math.nan).nanmean(-1)


def worst_case_accuracy(found: Timeline) -> Tensor:
    """Worst-case accuracy, float64 [*R]: current accuracy of the current task, lowest since its end of every other.

        WC-ACC = 1/k A(E_k, f_t) + (1 - 1/k) min-ACC

    with k evaluated tasks. If none has ended, it is the accuracy of the current task. NaN where the current task was
    not evaluated.

    Source: De Lange, van de Ven and Tuytelaars (2022), arXiv:2205.13452, section 3.

    >>> met = timeline({"a": [(1, 0.9), (2, 0.2), (3, 0.8)], "b": [(2, 0.8), (3, 1.0)]}, [1])
    >>> round(float(worst_case_accuracy(met)), 3)
    0.6
    """
    ended = int(found.past.any(-1).sum())
    now = found.accuracy[..., ended, -1] if ended < len(found.tasks) else found.accuracy[..., 0, -1] * math.nan
    return now if not ended else (now + ended * minimum_accuracy(found)) / (ended + 1)


def windowed_forgetting(found: Timeline, window: int = 10) -> Tensor:
    """Windowed forgetting, float64 [*R]: largest fall within `window` successive evaluations, mean over tasks.

        WF^w = 1/k sum_i max_{m < n < m + w} A(E_i, f_m) - A(E_i, f_n),   at least 0

    Args:
        window: w, at least 2 evaluations of the task, at any steps.

    Source: De Lange, van de Ven and Tuytelaars (2022), arXiv:2205.13452, section 3 (w = 10 and 100).

    >>> round(float(windowed_forgetting(timeline({"a": [(1, 0.9), (2, 0.2), (3, 0.8)]}, []), window=2)), 3)
    0.7
    """
    return _largest_falls(found.accuracy, window).nanmean(-1)


def windowed_plasticity(found: Timeline, window: int = 10) -> Tensor:
    """Windowed plasticity, float64 [*R]: largest rise within `window` successive evaluations, mean over tasks.

        WP^w = 1/k sum_i max_{m < n < m + w} A(E_i, f_n) - A(E_i, f_m),   at least 0

    Source: De Lange, van de Ven and Tuytelaars (2022), arXiv:2205.13452, section 3.

    >>> round(float(windowed_plasticity(timeline({"a": [(1, 0.9), (2, 0.2), (3, 0.8)]}, []), window=2)), 3)
    0.6
    """
    return _largest_falls(-found.accuracy, window).nanmean(-1)


def stability_gaps(found: Timeline, within: float = math.inf) -> dict[int, Gap]:
    """The stability gap of every past task after every switch: step of the switch -> Gap with values [*R, T].

    Args:
        within: number of steps after a switch, at most until the next switch.

    NaN for tasks that began later, and for tasks that were not evaluated before and after the switch.

    >>> gaps = stability_gaps(timeline({"a": [(1, 0.9), (2, 0.1), (3, 0.9)], "b": [(2, 1.0)]}, [1]))
    >>> [round(float(value[0]), 3) for value in gaps[1]]
    [0.9, 0.8, 2.0, 1.0]
    """
    switches = sorted({int(end) for end in found.ends if end < math.inf})
    following = [*switches[1:], math.inf][: len(switches)]
    return {
        switch: _gap(found, switch, min(after, switch + within))
        for switch, after in zip(switches, following, strict=True)
    }


def _gap(found: Timeline, switch: int, until: float) -> Gap:
    ended, known = (found.ends <= switch)[:, None], ~found.accuracy.isnan()
    old = known & ended & (found.steps <= switch)
    after = known & ended & (found.steps > switch) & (found.steps <= until)
    before, end = _last(found.accuracy, old), _last(found.accuracy, after)
    curve = _over(found.accuracy, after, math.inf)
    lowest, at = curve.min(-1) if curve.shape[-1] else (before, torch.zeros_like(before).long())
    depth = torch.where(lowest.isfinite(), before - lowest, math.nan).clamp(min=0)
    later = torch.arange(curve.shape[-1]) >= at[..., None]
    back = after & later & (found.accuracy >= (before - depth / 10)[..., None] - 1e-12)
    first = _over(found.steps.double().expand_as(curve), back, math.inf).amin(-1) - switch
    length = torch.where(depth > 0, torch.where(first.isfinite(), first, math.nan), depth * 0)
    return Gap(before, depth, length, torch.where(depth > 0, 1 - (before - end).clamp(min=0) / depth, math.nan))


def _over(values: Tensor, where: Tensor, rest: float) -> Tensor:
    return torch.where(where & ~values.isnan(), values, rest)


def _last(values: Tensor, where: Tensor) -> Tensor:
    """The last value [..., N] -> [...] where `where` is true; NaN if it never is."""
    count = where.shape[-1]
    if not count:
        return values.new_full(values.shape[:-1], math.nan)
    place = torch.where(where, torch.arange(count), -1).amax(-1)
    return torch.where(place >= 0, values.gather(-1, place.clamp(min=0)[..., None])[..., 0], math.nan)


def _largest_falls(values: Tensor, window: int) -> Tensor:
    """Largest fall of each series [..., N] from one of its own evaluations to one less than `window` later: [...]."""
    given = cast(object, window)
    if isinstance(given, bool) or not isinstance(given, int) or window < 2:
        raise BadInput(f"a window has at least 2 evaluations, got {window!r}")
    order = values.isnan().to(torch.int8).sort(dim=-1, stable=True).indices
    packed = values.gather(-1, order)
    falls = torch.where(packed[..., :1].isnan(), math.nan, 0.0)[..., 0]
    for apart in range(1, min(window, values.shape[-1])):
        drop = packed[..., :-apart] - packed[..., apart:]
        falls = torch.maximum(falls, torch.where(drop.isnan(), 0.0, drop).amax(-1))
    return falls
