"""Curvature against the step size."""

from __future__ import annotations

from dataclasses import dataclass

from homeostat.core.component import Cite
from homeostat.diagnosis.condition import Condition, Sign, limit
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.trends import median


@dataclass(frozen=True, kw_only=True)
class EdgeOfStability(Condition):
    """The sharpness has reached the largest that gradient descent is stable at: lambda * lr >= share * 2 (1 + beta).

    2/lr for plain gradient descent, 2 (1 + beta)/lr with heavy-ball momentum beta. Information only: full-batch
    gradient descent ordinarily trains here. Adaptive optimizers have another bound, in other coordinates, which
    the sharpness of the loss alone says nothing about; they are not judged. Needs a probe.

    Settings:
        share: of the stability bound.
    """

    cite = Cite(
        "Cohen, Kaur, Li, Kolter and Talwalkar", 2021, "Gradient Descent at the Edge of Stability", "2103.00065"
    )
    reads = ("sharpness",)
    explanation = (
        "The largest curvature is what this step size can just bear: the loss may rise for a while and come down, "
        "and a larger step would not be stable."
    )
    share: float = limit("edge-of-stability", "share", unit="of the stability bound")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        rates = [o for o in facts.optimizers if o.name == "SGD" and o.learning_rate > 0]
        if len(rates) != 1:
            return {}
        rate, bound = rates[0].learning_rate, 2 * (1 + rates[0].momentum)
        found = {}
        for layer in history.layers("sharpness"):
            now = median(history.recent("sharpness", layer, 3))
            if now * rate >= self.share * bound:
                text = f"the sharpness is {now:.3g}, {now * rate / bound:.2f} of what a step of {rate:g} is stable at"
                found[layer] = Sign("info", text, {"sharpness": now, "bound": bound / rate, "learning_rate": rate})
        return found
