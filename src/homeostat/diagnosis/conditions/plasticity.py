"""The network learns new things worse and worse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from homeostat.core.component import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import Condition, Sign, graded, limit
from homeostat.diagnosis.conditions.loss import judged_losses
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.trends import blocks, kendall_tau, median, spread, tau_limit

_TASKS = 6
_BLOCKS = 12


@dataclass(frozen=True, kw_only=True)
class LossOfPlasticity(Condition):
    """Three kinds of evidence, any one of which is enough:

    1. With task boundaries: the loss at the end of a task rises from task to task. E_k = median loss over the second
       half of task k; best = smallest mean of 3 consecutive E in the first half of the tasks, late = median of the last
       3; (late - best) / best and (late - best) / starting loss are over their limits, and Kendall's tau of the E that
       follow the best is significant at 1%.
    2. Without boundaries the same is asked of the tasks between upward jumps of the loss, if there are at least 6 of
       them, else of 12 blocks of the run; and in the same time dormant units must have risen or the effective rank
       fallen significantly in some layer. The loss alone would only say that the problem got harder.
    3. With a probe: the vital `plasticity` is clearly below its own first readings.

    Settings:
        info, warning, critical: relative rises (late - best) / best from which on each severity holds.
        share: the rise as a share of the starting loss that must be reached too: doubling next to nothing is nothing.
        jump: rise from one reading to the next, in robust standard deviations of all such differences, that is taken
            for the start of a new task.
        drop: relative fall of the vital `plasticity` that is a warning; twice the way down to 0 is critical.
    """

    cite = Cite("Dohare et al.", 2024, "Loss of plasticity in deep continual learning", "2306.13812", "Nature 632")
    reads = ("loss", "plasticity", "dormant-units", "effective-rank")
    watch = "loss"
    explanation = (
        "New tasks end with a higher loss than earlier ones did after the same effort. The cause may be dormant units, "
        "large weights or lost rank; without boundaries it may also be that the problem became harder."
    )
    info: float = limit("loss-of-plasticity", "info", unit="relative rise")
    warning: float = limit("loss-of-plasticity", "warning", unit="relative rise")
    critical: float = limit("loss-of-plasticity", "critical", unit="relative rise")
    share: float = limit("loss-of-plasticity", "share", unit="of the starting loss")
    drop: float = limit("loss-of-plasticity", "drop", high=1.0, unit="relative fall")
    jump: float = limit("loss-of-plasticity", "jump", unit="spreads of the differences")

    def clock(self, history: History, facts: Facts) -> int:
        return history.clock(("loss", "plasticity"))

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        found = self._by_probe(history)
        for layer, (steps, values) in judged_losses(history, facts).items():
            told = task_ends(steps, values, [step for step, _ in history.boundaries])
            if told.size >= _TASKS:
                sign = self._rise(told, float(values[0]), "the loss at the end of a task")
            else:
                sign = self._without_boundaries(history, steps, values)
            if sign is not None:
                found[layer] = max(sign, found.get(layer, sign), key=lambda s: s.rank)
        return found

    def _rise(self, levels: Array, start: float, what: str) -> Sign | None:
        early = np.convolve(levels, np.ones(3) / 3, "valid")[: max(1, levels.size // 2)]
        first = int(np.argmin(early))
        best, late = float(early[first]), median(levels[-3:])
        after = levels[first:]
        severity = graded((late - best) / best, self.limits()) if best > 0 else None
        if severity is None or late - best < self.share * start or kendall_tau(after) < tau_limit(after.size):
            return None
        text = f"{what} rose from {best:.3g} to {late:.3g} ({(late - best) / best:+.0%})"
        return Sign(severity, text, {"best": best, "late": late, "rise": (late - best) / best, "points": levels.size})

    def _without_boundaries(self, history: History, steps: Array, values: Array) -> Sign | None:
        if values.size < 5 * _BLOCKS:
            return None
        guessed = task_ends(steps, values, jumps(steps, values, self.jump))
        levels = guessed if guessed.size >= _TASKS else blocks(values, _BLOCKS)
        what = "the loss before each jump" if guessed.size >= _TASKS else "the running loss"
        sign = self._rise(levels, float(values[0]), what)
        cause = corroboration(history, steps[steps.size // 4]) if sign else ""
        if sign is None or not cause:
            return None
        return Sign(sign.severity, f"{sign.text}, while {cause}", {**sign.numbers, "cause": cause})

    def _by_probe(self, history: History) -> dict[str, Sign]:
        found = {}
        for layer in history.layers("plasticity"):
            values = history.series("plasticity", layer)[1]
            first, now = median(values[:3]), median(values[-3:])
            if values.size < 6 or not first > 0 or now > (1 - self.drop) * first:
                continue
            severity = "critical" if now <= (1 - self.drop) * first / 2 else "warning"
            text = f"plasticity on fresh targets fell from {first:.3g} to {now:.3g}"
            found[layer] = Sign(severity, text, {"first": first, "now": now})
        return found


def task_ends(steps: Array, values: Array, boundaries: list[int]) -> Array:
    """Median loss over the second half of every completed task (its last reading where that half has none); a task
    without any reading is left out."""
    edges = np.array([0, *sorted(boundaries)], dtype=float)
    first = np.searchsorted(steps, edges, "right")
    middle = np.searchsorted(steps, (edges[1:] + edges[:-1]) / 2, "right")
    ends = []
    for start, half, stop in zip(first, middle, first[1:], strict=False):
        if stop > start:
            ends.append(median(values[half:stop]) if stop > half else float(values[stop - 1]))
    return np.array(ends)


def jumps(steps: Array, values: Array, limit: float) -> list[int]:
    """Steps of the last reading before each upward jump of the loss; of jumps in a row only the first."""
    rises = np.diff(values)
    high = rises > limit * spread(rises)
    high[1:] &= ~high[:-1]
    return [int(step) for step in steps[:-1][high]]


def corroboration(history: History, since: float) -> str:
    """A vital that got significantly worse since that step, in words; "" when there is none."""
    for vital, sign, word in (("dormant-units", 1, "dormant units rose"), ("effective-rank", -1, "the rank fell")):
        for layer in history.layers(vital):
            steps, values = history.series(vital, layer)
            late = values[steps >= since]
            changed = sign * (median(late[-5:]) - median(late[:5])) > 0.1 * max(abs(median(late[:5])), 0.1)
            if late.size >= 10 and changed and sign * kendall_tau(late) > tau_limit(late.size):
                return f"{word} in {layer}" if layer != NETWORK else word
    return ""
