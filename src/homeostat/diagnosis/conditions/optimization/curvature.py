"""Curvature relative to the step size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.component import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import LayerCondition, Sign
from homeostat.diagnosis.example_histories import ExampleHistory, Point
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.remedies import LOWER_RATE
from homeostat.diagnosis.thresholds import limit
from homeostat.diagnosis.trends import median


def _sharpening(t: float, ill: float) -> list[Point]:
    return [("sharpness", NETWORK, 4.0 + 40.0 * ill * t)]


@dataclass(frozen=True, kw_only=True)
class EdgeOfStability(LayerCondition):
    """The sharpness is at the largest value at which gradient descent is stable: lambda * lr >= share * 2 (1 + beta).

    The bound is 2/lr for plain gradient descent and 2 (1 + beta)/lr with heavy-ball momentum beta. The finding is
    always info, because full-batch gradient descent usually trains there. Adaptive optimizers are not judged, because
    their bound applies to the preconditioned Hessian. Needs a probe.

    Settings:
        share: of the stability bound.
    """

    cite = Cite.of("edge-of-stability")
    reads = ("sharpness",)
    explanation = (
        "The largest curvature is at the limit for this step size: the loss may rise for a while and fall again, "
        "and a larger step would not be stable."
    )
    remedies = (
        Remedy("nothing while the loss falls: this is how full-batch gradient descent ordinarily trains"),
        LOWER_RATE,
    )
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"sharpening": _sharpening}
    share: float = limit(
        0.9, "policy: within a tenth of the bound 2 (1 + momentum) / lr", ease=0.9, unit="of the stability bound"
    )

    def sign(self, layer: str, values: Array, facts: Facts) -> Sign | None:
        rates = [o for o in facts.optimizers if o.name == "SGD" and o.learning_rate > 0]
        if len(rates) != 1:
            return None
        rate, bound, now = rates[0].learning_rate, 2 * (1 + rates[0].momentum), median(values[-3:])
        if not now * rate >= self.share * bound:  # also if it is NaN
            return None
        text = f"the sharpness is {now:.3g}, {now * rate / bound:.2f} of what a step of {rate:g} is stable at"
        return Sign("info", text, {"sharpness": now, "bound": bound / rate, "learning_rate": rate})
