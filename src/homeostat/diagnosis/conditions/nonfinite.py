"""NaN and infinity."""

from __future__ import annotations

from dataclasses import dataclass

from homeostat.core.component import Cite
from homeostat.diagnosis.condition import Condition, Sign, limit
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import History


@dataclass(frozen=True, kw_only=True)
class NonFinite(Condition):
    """Some weight, gradient or activation is NaN or infinite, at the newest reading.

    Under a GradScaler, overflowing gradients are how it searches for the scale, so there it is information until
    `scaled_readings` readings in a row show it.

    Settings:
        scaled_readings: readings in a row from which on it is critical under a GradScaler as well.
    """

    cite = Cite("Micikevicius et al.", 2018, "Mixed Precision Training", "1710.03740", "section 3.2")
    reads = ("non-finite",)
    watch = "non-finite"
    explanation = "Once a weight is NaN everything after it is NaN; the run does not come back by itself."
    persistence: int = 1
    scaled_readings: float = limit("non-finite", "scaled_readings", low=1.0, unit="readings")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        found = {}
        for layer in history.layers("non-finite"):
            values = history.series("non-finite", layer)[1]
            if not values.size or not values[-1] > 0:
                continue
            in_a_row = int((values[::-1] > 0).cumprod().sum())
            grave = not facts.loss_scaled or in_a_row >= self.scaled_readings
            text = f"{values[-1]:.0f} numbers of {layer} are NaN or infinite"
            numbers = {"non_finite": float(values[-1]), "readings_in_a_row": in_a_row}
            found[layer] = Sign("critical" if grave else "info", text, numbers)
        return found
