"""NaN and infinity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.component import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import LayerCondition, Sign
from homeostat.diagnosis.example_histories import ExampleHistory, Point
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.remedies import CLIP, LOWER_RATE
from homeostat.diagnosis.thresholds import limit


def _not_finite(t: float, ill: float) -> list[Point]:
    return [("non-finite", "fc.1", float(round(100 * ill)) if t > 0.7 else 0.0)]


def _lost(t: float, ill: float) -> list[Point]:
    return [("step-loss", NETWORK, math.nan if ill and t > 0.7 else 2.0 * math.exp(-t))]


@dataclass(frozen=True, kw_only=True)
class NonFiniteValues(LayerCondition):
    """A weight, gradient or activation is NaN or infinite at the newest reading, or the loss at the latest steps.

    A GradScaler finds its scale by letting gradients overflow. With one, this is info until `scaled_readings`
    consecutive readings show it.

    Settings:
        scaled_readings: consecutive readings from which on it is critical with a GradScaler.
        losses: consecutive losses that are NaN or infinite.
    """

    name = "non-finite"
    cite = Cite.of("mixed-precision", "section 3.2")
    reads = ("non-finite", "step-loss")
    outcome = "non-finite"
    explains = ("loss-scale-at-its-floor",)
    explanation = "Once a weight is NaN everything after it is NaN; the run does not come back by itself."
    remedies = (LOWER_RATE, CLIP, Remedy("look for a division, logarithm or root of zero in the loss"))
    examples: ClassVar[Mapping[str, ExampleHistory]] = {
        "values that are not finite": _not_finite,
        "a loss that is NaN where nothing else is read": _lost,
    }
    persistence: int = 1
    scaled_readings: float = limit(
        5, "policy: a loss scale is halved at every overflow and found within a few readings", low=1.0, unit="readings"
    )
    losses: float = limit(5, "policy: a script may leave out a single batch", low=1.0, unit="steps")

    def clock(self, history: History, facts: Facts) -> int:
        return history.clock(self.reads)

    def layer_clock(self, history: History, layer: str, default: int) -> int:
        return max((one[0] for vital in self.reads if (one := history.latest(vital, layer))), default=default)

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        found = super().signs(history, facts)
        for layer in history.layers("step-loss"):
            steps = history.missing_since("step-loss", layer)
            if steps >= self.losses and layer not in found:
                text = f"the loss was NaN or infinite at the last {steps} steps"
                found[layer] = Sign("critical", text, {"losses": steps})
        return found

    def sign(self, layer: str, values: Array, facts: Facts) -> Sign | None:
        if not values[-1] > 0:
            return None
        in_a_row = int((values[::-1] > 0).cumprod().sum())
        grave = not facts.loss_scaled or in_a_row >= self.scaled_readings
        text = f"{values[-1]:.0f} numbers of {layer} are NaN or infinite"
        numbers = {"non_finite": float(values[-1]), "readings_in_a_row": in_a_row}
        return Sign("critical" if grave else "info", text, numbers)
