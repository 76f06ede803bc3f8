"""NaN and infinity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.component import Cite
from homeostat.diagnosis.condition import LayerCondition, Sign
from homeostat.diagnosis.example_histories import ExampleHistory, Point
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.remedies import CLIP, LOWER_RATE
from homeostat.diagnosis.thresholds import limit


def _not_finite(t: float, ill: float) -> list[Point]:
    return [("non-finite", "fc.1", float(round(100 * ill)) if t > 0.7 else 0.0)]


@dataclass(frozen=True, kw_only=True)
class NonFiniteValues(LayerCondition):
    """A weight, gradient or activation is NaN or infinite at the newest reading.

    A GradScaler finds its scale by letting gradients overflow. With one, this is info until `scaled_readings`
    consecutive readings show it.

    Settings:
        scaled_readings: consecutive readings from which on it is critical with a GradScaler.
    """

    name = "non-finite"
    cite = Cite.of("mixed-precision", "section 3.2")
    reads = ("non-finite",)
    outcome = "non-finite"
    explains = ("loss-scale-at-its-floor",)
    explanation = "Once a weight is NaN everything after it is NaN; the run does not come back by itself."
    remedies = (LOWER_RATE, CLIP, Remedy("look for a division, logarithm or root of zero in the loss"))
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"values that are not finite": _not_finite}
    persistence: int = 1
    scaled_readings: float = limit(
        5, "policy: a loss scale is halved at every overflow and found within a few readings", low=1.0, unit="readings"
    )

    def sign(self, layer: str, values: Array, facts: Facts) -> Sign | None:
        if not values[-1] > 0:
            return None
        in_a_row = int((values[::-1] > 0).cumprod().sum())
        grave = not facts.loss_scaled or in_a_row >= self.scaled_readings
        text = f"{values[-1]:.0f} numbers of {layer} are NaN or infinite"
        numbers = {"non_finite": float(values[-1]), "readings_in_a_row": in_a_row}
        return Sign("critical" if grave else "info", text, numbers)
