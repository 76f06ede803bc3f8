"""What the loss says: no progress at all, or swings instead of progress.

Only losses that stay positive are judged, of runs with one objective: where several optimizers work against or for
each other (actor and critic, generator and discriminator) the target moves, and a rise or a swing means little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from homeostat.core.component import Cite
from homeostat.diagnosis.condition import Condition, Sign, limit
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.trends import kendall_tau, median, roughness, tau_limit

_AUTOTRAINER = Cite(
    "Zhang, Zhai, Ma and Shen", 2021, "AUTOTRAINER: DNN Training Problem Detection and Repair", "", "ICSE"
)


def judged_losses(history: History, facts: Facts) -> dict[str, tuple[Array, Array]]:
    """Layer -> (steps, values) of the losses that can be judged by their course: one objective, finite, positive."""
    if facts.several_objectives:
        return {}
    series = {layer: history.series("loss", layer) for layer in history.layers("loss")}
    return {k: (s, v) for k, (s, v) in series.items() if v.size and np.isfinite(v).all() and v.min() >= 0}


def starting_level(values: Array, history: History, facts: Facts) -> float:
    """The level a loss started from: its first reading, which is of step 1, before anything could go well or wrong.

    With a few samples per step that one reading is a matter of luck, and the median of the first 5 is taken instead.
    """
    return median(values[:5]) if tiny_batches(history, facts) else float(values[0])


def tiny_batches(history: History, facts: Facts) -> bool:
    """Whether steps see so few samples that one loss says little: known, or because no share of units could be told."""
    if facts.batch_size is not None:
        return facts.batch_size < 8
    layers = history.layers("dormant-units")
    return bool(layers) and not any(history.series("dormant-units", layer)[1].size for layer in layers)


@dataclass(frozen=True, kw_only=True)
class OscillatingLoss(Condition):
    """The loss swings by a good part of its starting level and has made little progress.

        roughness of the last 40 readings / start >= amplitude,   their median / start >= progress

    Roughness (see `trends.roughness`) does not count a trend, nor single jumps. A noisy loss that comes down is only
    small batches; a converged loss swings relative to itself, not relative to its start.

    Settings:
        info, warning: amplitudes from which on each severity holds.
        progress: share of the starting level below which the loss counts as coming down.
        readings: how many of the last readings are looked at.
    """

    cite = _AUTOTRAINER
    reads = ("loss",)
    explanation = (
        "The loss jumps up and down from step to step instead of falling: as a rule the learning rate is too high."
    )
    persistence: int = 5
    info: float = limit("oscillating-loss", "info", unit="of the starting loss")
    warning: float = limit("oscillating-loss", "warning", unit="of the starting loss")
    progress: float = limit("oscillating-loss", "progress", unit="of the starting loss")
    readings: int = 40

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        found = {}
        for layer, (_, values) in judged_losses(history, facts).items():
            if values.size < self.readings:
                continue
            start, window = starting_level(values, history, facts), values[-self.readings :]
            swing, level = (f(window) / max(start, 1e-30) for f in (roughness, median))
            if swing >= self.info and level >= self.progress:
                severity = "warning" if swing >= self.warning else "info"
                text = f"the loss swings by {swing:.0%} of its starting level and stands at {level:.0%} of it"
                found[layer] = Sign(severity, text, {"swing": swing, "level": level, "start": start})
        return found


@dataclass(frozen=True, kw_only=True)
class StalledLearning(Condition):
    """The loss has not come down since the start: it never began to learn.

    After at least `readings` readings over `steps` steps, the median of the last half is not below (1 - progress) of
    the starting level, and Kendall's tau shows no significant fall. A plateau after a fall is no stall,
    and a run that did not start here is not judged.

    Settings:
        progress: relative fall that counts as learning.
        steps: optimizer steps before it is judged.
        readings: readings of the loss before it is judged.
    """

    cite = _AUTOTRAINER
    reads = ("loss",)
    explanation = (
        "The loss is where it was at the start. Either nothing moves (learning rate, dead units, no gradient), or "
        "there is nothing to learn (targets shuffled against inputs). A run continued from trained weights looks alike."
    )
    persistence: int = 5
    progress: float = limit("stalled-learning", "progress", high=1.0, unit="of the starting loss")
    steps: float = limit("stalled-learning", "steps", unit="steps")
    readings: int = 40

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        if facts.resumed:
            return {}
        found = {}
        for layer, (steps, values) in judged_losses(history, facts).items():
            if values.size < self.readings or steps[-1] - steps[0] < self.steps:
                continue
            start = max(starting_level(values, history, facts), median(values[:5]))
            now = median(values[values.size // 2 :])
            tau = kendall_tau(values)
            if start > 0 and now >= (1 - self.progress) * start and tau > -tau_limit(values.size):
                text = f"the loss is {now:.4g} after {steps[-1]:.0f} steps; at the start it was {start:.4g}"
                found[layer] = Sign("warning", text, {"now": now, "start": start, "tau": tau})
        return found
