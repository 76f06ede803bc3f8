"""Loss of plasticity: the network learns new tasks less and less well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from homeostat.core.component import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import Condition, Sign, graded
from homeostat.diagnosis.conditions.optimization.loss import judged_losses
from homeostat.diagnosis.example_histories import ExampleHistory, Point
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.remedies import CONTINUAL_BACKPROP, L2_INIT, REDO, SHRINK_AND_PERTURB
from homeostat.diagnosis.thresholds import EARLY_NOTICE, limit, measured
from homeostat.diagnosis.trends import blocks, kendall_tau, median, spread, tau_limit

_TASKS = 6
_BLOCKS = 12
LOW = 0.1
"""Share of the starting loss; rises are relative to at least this."""
MORE_CLASSES = 1.1
"""Growth of the entropy of a batch's labels above which the problem has become harder."""


def _rising_by_task(t: float, ill: float) -> list[Point]:
    return [("loss", NETWORK, (0.2 + 2.0 * ill * t) * (1 + 4 * math.exp(-6 * (t * 10 % 1))))]


def _losing_plasticity(t: float, ill: float) -> list[Point]:
    return [("plasticity", NETWORK, 1.0 - 0.95 * ill * t)]


@dataclass(frozen=True, kw_only=True)
class LossOfPlasticity(Condition):
    """Three kinds of evidence, any one of which is enough:

    1. With task boundaries: the loss at the end of a task rises from task to task. E_k = median loss over the second
       half of task k; best = smallest mean of 3 consecutive E in the first half of the tasks, late = median of the last
       3; (late - best) / max(best, a tenth of the starting loss) and (late - best) / starting loss are over their
       limits, and Kendall's tau of the E that follow the best is significant at 1%.
    2. Without boundaries, the same rule for the tasks between upward jumps of the loss (see `LossTasks`; those much
       shorter than the others are left out), if there are at least 6 of them, else of 12 blocks of the run; and in the
       same time dormant units must have risen or the effective rank fallen significantly in some layer, and batches
       must not hold more classes than at first. The loss alone would only show that the problem became harder.
    3. With a probe: the vital `plasticity` is clearly below its own first readings.

    Settings:
        info, warning, critical: smallest relative rise of each severity.
        share: smallest rise as a share of the starting loss, because doubling a tiny loss is harmless.
        jump: rise from one reading to the next, in robust standard deviations of all such differences, that counts as
            the start of a new task.
        drop: relative fall of the vital `plasticity` that is a warning; twice the way down to 0 is critical.
    """

    cite = Cite.of("continual-backprop")
    entries = ()
    reads = ("loss", "plasticity", "dormant-units", "effective-rank")
    outcome = "loss"
    explains = (
        "dormant-units",
        "saturated-units",
        "rank-collapse",
        "vanishing-gradients",
        "exploding-gradients",
        "stalled-learning",
        "oscillating-loss",
        "forgetting",
    )
    explanation = (
        "New tasks end with a higher loss than earlier ones did after the same effort. The cause may be dormant units, "
        "large weights or lost rank; without boundaries it may also be that the problem became harder."
    )
    remedies = (L2_INIT, SHRINK_AND_PERTURB, CONTINUAL_BACKPROP, REDO)
    examples: ClassVar[Mapping[str, ExampleHistory]] = {
        "a loss that rises from task to task": _rising_by_task,
        "losing plasticity": _losing_plasticity,
    }
    persistence: int = 1
    info: float = limit(0.15, EARLY_NOTICE, ease=0.7, unit="relative rise")
    warning: float = measured((0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0), ease=0.7, unit="relative rise")
    critical: float = limit(1.0, "policy: twice the loss of earlier tasks", ease=0.8, unit="relative rise")
    share: float = limit(
        0.05,
        "policy: a rise by less than a twentieth of the starting loss is not worth a word",
        ease=0.7,
        unit="of the starting loss",
    )
    drop: float = measured(
        (0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        vital="plasticity",
        ease=0.8,
        high=1.0,
        unit="relative fall",
    )
    jump: float = limit(
        3.0,
        "corpus: finds all 9 changes in each of 12 pixel streams, and at most 5 (fewer than 6 tasks) in runs without "
        "changes",
        unit="spreads of the differences",
    )

    def clock(self, history: History, facts: Facts) -> int:
        return max(history.clock(("loss", "plasticity")), *map(_last_end, facts.task_ends.values()), -1)

    def layer_clock(self, history: History, layer: str, default: int) -> int:
        return default

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        found = self._by_probe(history)
        for layer, (steps, values) in judged_losses(history, facts).items():
            told = task_ends(steps, values, [step for step, _ in history.boundaries])
            if told.size >= _TASKS:
                sign = self._lasting([told, told[:-1]], float(values[0]), "the loss at the end of a task")
            else:
                sign = self._without_boundaries(history, facts, layer)
            if sign is not None:
                found[layer] = max(sign, found.get(layer, sign), key=lambda s: s.rank)
        return found

    def _lasting(self, seen: Sequence[Array], start: float, what: str) -> Sign | None:
        """The mildest sign of these levels, if all have one: now, and a task or a few readings ago."""
        signs = [self._rise(levels, start, what) if levels.size >= 3 else None for levels in seen]
        return min((sign for sign in signs if sign), key=lambda s: s.rank) if all(signs) else None

    def _rise(self, levels: Array, start: float, what: str) -> Sign | None:
        early = np.convolve(levels, np.ones(3) / 3, "valid")[: max(1, levels.size // 2)]
        first = int(np.argmin(early))
        best, late = float(early[first]), median(levels[-3:])
        after = levels[first:]
        rise = (late - best) / max(best, LOW * start) if start > 0 else 0.0
        severity = graded(rise, self.limits())
        if severity is None or late - best < self.share * start or kendall_tau(after) < tau_limit(after.size):
            return None
        text = f"{what} rose from {best:.3g} to {late:.3g}"
        return Sign(severity, text, {"best": best, "late": late, "rise": rise, "points": levels.size})

    def _without_boundaries(self, history: History, facts: Facts, layer: str) -> Sign | None:
        steps, values = history.series("loss", layer)
        ends, what = ends_between_jumps(facts.task_ends.get(layer, ())), "the loss before each jump"
        seen = [ends, ends[:-1]]
        if ends.size < _TASKS and values.size >= 5 * _BLOCKS + 2:
            cut = [values.size, values.size - 1, values.size - 2]
            seen = [task_ends(steps[:n], values[:n], jumps(steps[:n], values[:n], self.jump)) for n in cut]
            if min(levels.size for levels in seen) < _TASKS:
                seen, what = [blocks(values[:n], _BLOCKS) for n in cut], "the running loss"
        if seen[0].size < _TASKS or facts.loss.labels.late_entropy > MORE_CLASSES * facts.loss.labels.early_entropy:
            return None
        sign = self._lasting(seen, float(values[0]), what)
        cause = corroboration(history, steps[steps.size // 4]) if sign else ""
        if sign is None or not cause:
            return None
        return Sign(sign.severity, f"{sign.text}, while {cause}", {**sign.numbers, "cause": cause})

    def _by_probe(self, history: History) -> dict[str, Sign]:
        found: dict[str, Sign] = {}
        for layer in history.layers("plasticity"):
            values = history.series("plasticity", layer)[1]
            first, now = (
                median(values[:3]),
                max((median(values[-3 - k : values.size - k]) for k in range(3)), default=0.0),
            )
            if values.size < 6 or not first > 0 or now > (1 - self.drop) * first:
                continue
            severity = "critical" if now <= (1 - self.drop) * first / 2 else "warning"
            text = f"plasticity on fresh targets fell from {first:.3g} to {now:.3g}"
            found[layer] = Sign(severity, text, {"first": first, "now": now})
        return found


def task_ends(steps: Array, values: Array, boundaries: list[int]) -> Array:
    """Median loss over the second half of every completed task, or its last reading if that half has none. Tasks
    without a reading are left out."""
    edges = np.array([0, *sorted(boundaries)], dtype=float)
    first = np.searchsorted(steps, edges, "right")
    middle = np.searchsorted(steps, (edges[1:] + edges[:-1]) / 2, "right")
    ends: list[float] = []
    for start, half, stop in zip(first, middle, first[1:], strict=False):
        if stop > start:
            ends.append(median(values[half:stop]) if stop > half else float(values[stop - 1]))
    return np.array(ends)


def ends_between_jumps(ends: Sequence[tuple[int, float]]) -> Array:
    """Levels of the loss before its jumps, without jumps soon after another one."""
    if not ends:
        return np.empty(0)
    steps, levels = (np.array(column, dtype=float) for column in zip(*ends, strict=True))
    lengths = np.diff(steps, prepend=0.0)
    return levels[lengths >= median(lengths) / 2]


def jumps(steps: Array, values: Array, limit: float) -> list[int]:
    """Steps of the last reading before each upward jump of the loss; of successive jumps only the first."""
    rises = np.diff(values)
    high = rises > limit * spread(rises)
    high[1:] &= ~high[:-1]
    return [int(step) for step in steps[:-1][high]]


def corroboration(history: History, since: float) -> str:
    """A vital that got significantly worse since that step, or much worse if it was seldom read; "" for none."""
    for vital, sign, word in (("dormant-units", 1, "dormant units rose"), ("effective-rank", -1, "the rank fell")):
        for layer in history.layers(vital):
            steps, values = history.series(vital, layer)
            late = values[steps >= since]
            changed = sign * (median(late[-5:]) - median(late[:5])) > 0.1 * max(abs(median(late[:5])), 0.1)
            significant = late.size >= 10 and sign * kendall_tau(late) > tau_limit(late.size)
            if (changed and significant) or _far_worse(vital, values):
                return f"{word} in {layer}" if layer != NETWORK else word
    return ""


def _far_worse(vital: str, values: Array) -> bool:
    """The last reading compared with the first half of all: a quarter of all units, or half of the rank."""
    if values.size < 10:
        return False
    early, now = median(values[: values.size // 2]), float(values[-1])
    return now - early >= 0.25 if vital == "dormant-units" else now <= 0.5 * early


def _last_end(ends: Sequence[tuple[int, float]]) -> int:
    return ends[-1][0] if ends else -1
