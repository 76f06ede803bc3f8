"""Metrics of a lifetime of learning and evaluation blocks, in which tasks may recur.

Source: Baker et al. (2023), arXiv:2301.07799, as in the authors' code (lifelong-learning-systems/l2metrics). Scores are
used as they are; the authors' command line first maps those of each task to 0..100.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from homeostat.core.errors import BadInput

Curve = NDArray[np.float64]
"""Scores of successive learning experiences, [n]."""
Pairs = dict[tuple[str, str], float]
"""(trained task, evaluated task) -> value."""


@dataclass(frozen=True)
class Learning:
    """A learning block.

    Args:
        task: the task that is trained.
        scores: of its learning experiences; empty if they are unknown.
    """

    task: str
    scores: Sequence[float] = ()


@dataclass(frozen=True)
class Lifetime:
    """Learning blocks, with an evaluation block before each and one at the end.

    Args:
        learning: K blocks.
        evaluations: K + 1 of task -> score; an empty one where nothing was evaluated.

    Raises:
        BadInput: the numbers of blocks do not fit.
    """

    learning: Sequence[Learning]
    evaluations: Sequence[Mapping[str, float]] = field(default_factory=list[Mapping[str, float]])

    def __post_init__(self) -> None:
        if len(self.evaluations) != len(self.learning) + 1:
            raise BadInput(f"{len(self.learning)} learning blocks need {len(self.learning) + 1} evaluations, "
                           f"got {len(self.evaluations)}")  # fmt: skip

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks, in the order of training and then of evaluation."""
        evaluated = (task for scores in self.evaluations for task in scores)
        return tuple(dict.fromkeys([*(block.task for block in self.learning), *evaluated]))

    def trained(self, task: str) -> list[int]:
        """Numbers of the learning blocks of a task; block k lies between the evaluations k and k + 1."""
        return [k for k, block in enumerate(self.learning) if block.task == task]

    def evaluated(self, task: str) -> list[int]:
        """Numbers of the evaluations of a task."""
        return [n for n, scores in enumerate(self.evaluations) if task in scores]


def performance_maintenance(life: Lifetime) -> dict[str, float]:
    """Task -> score in later evaluations minus that in the first evaluation after its last training, mean over them.

    Negative where a task is forgotten. Tasks without a later evaluation are left out.

    >>> life = Lifetime([Learning("a"), Learning("b")], [{}, {"a": 0.9}, {"a": 0.5}])
    >>> performance_maintenance(life)
    {'a': -0.4}
    """
    found: dict[str, float] = {}
    for task in life.tasks:
        at = life.evaluated(task)
        references = [next((n for n in at if n > k), None) for k in life.trained(task)]
        known = [n for n in references if n is not None]
        changes = [
            life.evaluations[n][task] - life.evaluations[max(r for r in known if r < n)][task]
            for n in at
            if n not in known and any(r < n for r in known)
        ]
        if changes:
            found[task] = float(np.mean(changes))
    return found


def transfer(life: Lifetime, *, forward: bool, ratio: bool = False) -> Pairs:
    """Change of a task's score over the training of another task: (trained, evaluated) -> contrast or ratio.

        contrast = (after - before) / (after + before),   ratio = after / before

    If the trained task recurs, its first block that counts is used. Where several blocks lie between two evaluations of
    a task, the change counts for each of them. Pairs whose denominator is 0 are left out.

    Args:
        forward: the evaluated task has not been trained yet (forward transfer); else it has (backward transfer).
        ratio: the ratio instead of the contrast.

    >>> life = Lifetime([Learning("a"), Learning("b")], [{"b": 0.1}, {"a": 0.9, "b": 0.3}, {"a": 0.5}])
    >>> {pair: round(value, 3) for pair, value in transfer(life, forward=True).items()}
    {('a', 'b'): 0.5}
    >>> {pair: round(value, 3) for pair, value in transfer(life, forward=False).items()}
    {('b', 'a'): -0.286}
    """
    found: Pairs = {}
    for task in life.tasks:
        first = min(life.trained(task), default=len(life.learning))
        for before, after in pairwise(life.evaluated(task)):
            for k in range(before, after):
                trained = life.learning[k].task
                if trained == task or (k < first) != forward:
                    continue
                then, now = life.evaluations[before][task], life.evaluations[after][task]
                below = then if ratio else then + now
                if below:
                    found.setdefault((trained, task), float((now if ratio else now - then) / below))
    return found


def relative_performance(life: Lifetime, experts: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, float]:
    """Task -> sum of its smoothed scores in training over the sum of an expert's, for the same number of experiences.

    Args:
        experts: task -> learning curves of single-task experts; the mean over experts is taken.

    >>> life = Lifetime([Learning("a", [0.2, 0.4, 0.6])], [{}, {}])
    >>> round(relative_performance(life, {"a": [[0.4, 0.8, 0.8, 1.0]]})["a"], 3)
    0.6
    """
    found: dict[str, float] = {}
    for task, own in _curves(life).items():
        ratios: list[float] = []
        for expert in map(smoothed, experts.get(task, ())):
            count = min(len(own), len(expert))
            if (total := expert[:count].sum()) != 0:
                ratios.append(float(own[:count].sum() / total))
        if ratios:
            found[task] = float(np.mean(ratios))
    return found


def sample_efficiency(life: Lifetime, experts: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, float]:
    """Task -> (saturation / expert's saturation) * (expert's experiences to saturation / experiences to saturation).

    Saturation is the largest value of the smoothed curve. 0 where the scores fall in training (least squares over the
    task's own experiences), or saturate below a fifth of the expert's. A task is left out if its curve or all experts'
    are largest at the start.

    >>> life = Lifetime([Learning("a", [0.2, 0.4, 0.6])], [{}, {}])
    >>> round(sample_efficiency(life, {"a": [[0.2, 0.3, 0.4, 0.5, 0.6]]})["a"], 3)
    2.0
    """
    found: dict[str, float] = {}
    for task, own in _curves(life).items():
        level, wait = _saturation(own)
        values: list[float] = []
        for expert in map(smoothed, experts.get(task, ())):
            expert_level, expert_wait = _saturation(expert)
            if not wait or not expert_wait or not expert_level:
                continue
            rising = np.polyfit(np.arange(len(own)), own, 1)[0] >= 0
            sound = rising and level >= 0.2 * expert_level
            values.append(level / expert_level * expert_wait / wait if sound else 0.0)
        if values:
            found[task] = float(np.mean(values))
    return found


def smoothed(scores: Sequence[float] | Curve) -> Curve:
    """A moving average over a fifth of the experiences, at most 100, with reflection at both ends: [n] -> [n].

    The window of experience i is i - w//2 ... i + w//2 - 1 for even w, one further to the left for odd w, as in the
    authors' code. Curves of fewer than 15 experiences are returned as they are.
    """
    values = np.asarray(scores, dtype=np.float64)
    width = min(len(values) // 5, 100)
    if width < 3:
        return values
    padded = np.pad(values, width - 1, mode="reflect")
    start = width // 2 - 1
    return np.lib.stride_tricks.sliding_window_view(padded, width).mean(-1)[start : start + len(values)]


def _curves(life: Lifetime) -> dict[str, Curve]:
    """The smoothed training scores of each task, its blocks one after another."""
    joined: dict[str, list[Curve]] = {}
    for block in life.learning:
        if len(block.scores):
            joined.setdefault(block.task, []).append(smoothed(block.scores))
    return {task: np.concatenate(curves) for task, curves in joined.items()}


def _saturation(curve: Curve) -> tuple[float, int]:
    """The largest value of a curve, smoothed once more as in the authors' code, and its first place."""
    again = smoothed(curve)
    if not len(again):
        return 0.0, 0
    place = int(again.argmax())
    return float(again[place]), place
