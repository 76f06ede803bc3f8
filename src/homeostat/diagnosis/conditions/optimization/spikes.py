"""Single steps at which the loss is far above its recent level."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from homeostat.core.component import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import Condition, Sign
from homeostat.diagnosis.example_histories import READINGS, ExampleHistory, Point, wobble
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.remedies import CLIP, LOWER_RATE
from homeostat.diagnosis.thresholds import limit
from homeostat.diagnosis.trends import median, roughness

WINDOW = 32
"""Readings before a spike that give the recent level of the loss."""
AFTER = 8
"""Readings after a spike within which the loss returns."""


def _spiking(t: float, ill: float) -> list[Point]:
    reading = round(t * READINGS)
    spike = 8.0 * ill if reading >= 2 * WINDOW and not reading % 15 else 0.0
    return [("step-loss", NETWORK, 2.0 * math.exp(-t) * (1 + wobble(reading, 0.02) + spike))]


@dataclass(frozen=True, kw_only=True)
class LossSpikes(Condition):
    """The loss of single steps is repeatedly far above its recent level, and returns.

    A spike is a loss v_i at which, with m the median and s the roughness of the logarithms of the 32 readings before,

        v_i >= ratio * m,   log(v_i / m) >= noise * s,   v_i - m >= part * (loss at the start),

    and whose next 8 readings have a median below ratio * m. A noisy loss has a large s and no spikes. The first losses
    of a new task (see `LossTasks`) are not spikes. The loss of a policy gradient, or of a comparison with a target
    network, jumps with its target and is not judged.

    Settings:
        ratio: smallest factor over the recent level.
        noise: smallest distance in units of the spread around the recent level.
        part: smallest height as a share of the loss at the start, because spikes of a loss near zero are harmless.
        warning: number of spikes in the second half of the readings.
    """

    cite = Cite("Molybog et al.", 2023, "A Theory on Adam Instability in Large-Scale Machine Learning", "2304.09871")
    reads = ("step-loss",)
    explains = ("oscillating-loss",)
    explanation = (
        "The loss jumps at single steps and returns. Some batches are bad (corrupt or of another scale), or the "
        "optimizer's steps are too long for rare large gradients."
    )
    remedies = (CLIP, LOWER_RATE, Remedy("look at the batches of these steps"))
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"spikes of the loss": _spiking}
    persistence: int = 1
    ratio: float = limit(3, "policy: a loss that triples in one step", ease=0.9, low=1.0, unit="of the course")
    noise: float = limit(8, "policy: noise of small batches has heavy tails", ease=0.9, unit="of the spread")
    part: float = limit(0.2, "policy: below that, a spike costs little", ease=0.9, unit="of the start")
    warning: float = limit(3, "policy: fewer may be chance", unit="spikes")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        if facts.several_objectives or facts.moving_targets:
            return {}
        found: dict[str, Sign] = {}
        for layer in history.layers("step-loss"):
            steps, values = history.series("step-loss", layer)
            if values.size < 2 * WINDOW or not np.isfinite(values).all() or values.min() <= 0:
                continue
            ends = [step for step, _ in facts.task_ends.get(layer, ())]
            places = [p for p in self._spikes(values) if all(abs(steps[p] - step) > AFTER for step in ends)]
            if sum(place >= values.size // 2 for place in places) >= self.warning:
                highest = max(places, key=lambda place: values[place])
                times = values[highest] / median(values[highest - WINDOW : highest])
                text = (
                    f"{len(places)} spikes of the loss, up to {times:.0f} times its course (step {steps[highest]:.0f})"
                )
                found[layer] = Sign("warning", text, {"spikes": len(places), "times": float(times)})
        return found

    def _spikes(self, values: Array) -> list[int]:
        start, found = median(values[:5]), list[int]()
        jumps = WINDOW + np.flatnonzero(values[WINDOW:] / self.ratio >= values[WINDOW - 1 : -1])
        for place in jumps:
            before, after = values[place - WINDOW : place], values[place + 1 : place + 1 + AFTER]
            if not after.size or (found and place - found[-1] < AFTER):
                continue
            course, spread = median(before), roughness(np.log(before))
            height = values[place] - course
            high = values[place] / self.ratio >= course and height >= self.part * start
            if high and math.log(values[place] / course) >= self.noise * spread and median(after) / self.ratio < course:
                found.append(int(place))
        return found
