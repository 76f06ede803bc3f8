"""Layers in which most units are dormant or saturated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from homeostat.core.component import Cite
from homeostat.core.finding import SEVERITIES
from homeostat.diagnosis.condition import LayerCondition, Limits, Sign, graded
from homeostat.diagnosis.conditions.optimization.loss import judged_losses
from homeostat.diagnosis.example_histories import ExampleHistory
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.remedies import CONTINUAL_BACKPROP, L2_INIT, LAYER_NORM, LOWER_RATE, REDO, SCALED_INIT
from homeostat.diagnosis.remedies import SHRINK_AND_PERTURB as SHRINK
from homeostat.diagnosis.thresholds import EARLY_NOTICE, limit, measured
from homeostat.diagnosis.trends import median

RECTIFIED = frozenset({"relu", "relu6", "threshold"})
"""Nonlinearities whose flat side `dormant-units` covers, so that saturation is not a second finding."""


SHARES = np.round(np.arange(0.50, 0.96, 0.05), 2)


def _share_sign(layer: str, values: Array, limits: Limits, word: str) -> Sign | None:
    now, first = median(values[-3:]), median(values[:3])
    if (severity := graded(now, limits)) is None:
        return None
    text = f"{now:.0%} of the units of {layer} are {word} (at the start {first:.0%})"
    return Sign(severity, text, {"share": round(now, 4), "share_at_start": round(first, 4)})


def _rising(vital: str) -> ExampleHistory:
    return lambda t, ill: [(vital, "fc.1", 0.06 + 0.92 * ill * min(1.0, 2 * t))]


@dataclass(frozen=True, kw_only=True)
class DormantLayer(LayerCondition):
    """The share of tau-dormant units of a layer (median of the last 3 readings) is far above what healthy runs show.

    Where the loss of guessing is known (class labels), and the loss is at most `learned` of it, the severity is one
    level lower, because the remaining units are enough for the task.

    In layers that only predict returns in a policy gradient, it is info at most: a poor baseline adds noise to the
    gradient but does not change its mean.

    Settings:
        info, warning, critical: smallest share of each severity.
        learned: largest loss, as a share of that of guessing, at which the network learns well.
    """

    name = "dormant-units"
    cite = Cite.of("dormant-neurons")
    reads = ("dormant-units",)
    outcome = "dormant-units"
    explains = ("vanishing-gradients", "rank-collapse", "stalled-learning", "output-collapse")
    explanation = (
        "Most units of a layer output next to nothing on the batch. They pass no gradient on, so the layer is "
        "effectively narrower. Some dormant units are normal with ReLU, also at initialisation."
    )
    remedies = (REDO, L2_INIT, CONTINUAL_BACKPROP, SHRINK, LOWER_RATE)
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"dormant units": _rising("dormant-units")}
    info: float = limit(0.45, EARLY_NOTICE, ease=0.85, high=1.0, unit="fraction of units")
    warning: float = measured(SHARES, ease=0.8, high=1.0, unit="fraction of units")
    critical: float = limit(
        0.9, "policy: fewer than a tenth of the units are left", ease=0.9, high=1.0, unit="fraction of units"
    )

    learned: float = limit(
        0.2, "policy: at a fifth of the loss of guessing most is learned", high=1.0, unit="of guessing"
    )

    def sign(self, layer: str, values: Array, facts: Facts) -> Sign | None:
        return _share_sign(layer, values, self.limits(), "dormant")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        found = super().signs(history, facts)
        if not found or not self._learns_well(history, facts):
            return found
        return {
            layer: replace(sign, severity=SEVERITIES[max(sign.rank - 1, 0)], text=f"{sign.text}, while the loss is low")
            for layer, sign in found.items()
        }

    def _learns_well(self, history: History, facts: Facts) -> bool:
        losses = judged_losses(history, facts).values()
        return bool(losses) and all(median(v[-5:]) <= self.learned * facts.loss.labels.chance for _, v in losses)

    def harmless(self, layer: str, history: History, facts: Facts) -> bool:
        return layer in facts.policy.baselines


@dataclass(frozen=True, kw_only=True)
class SaturatedLayer(LayerCondition):
    """The share of saturated units of a layer (median of the last 3 readings) is far above what healthy runs show.

    Rectified layers are left to `dormant-units`: a rectified unit is saturated if it is off on nearly every sample, as
    in a healthy sparse code. Baselines of a policy gradient are judged as in `dormant-units`.

    Settings:
        info, warning, critical: smallest share of each severity.
    """

    name = "saturated-units"
    cite = Cite.of("glorot-initialization", "section 3")
    reads = ("saturated-units",)
    outcome = "saturated-units"
    explains = ("output-collapse",)
    explanation = (
        "Most units of a layer sit on a flat part of their nonlinearity for nearly every input, so next to no gradient "
        "passes through them."
    )
    remedies = (L2_INIT, SHRINK, LAYER_NORM, SCALED_INIT, LOWER_RATE)
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"saturated units": _rising("saturated-units")}
    info: float = limit(0.45, EARLY_NOTICE, ease=0.85, high=1.0, unit="fraction of units")
    warning: float = measured(SHARES, ease=0.8, high=1.0, unit="fraction of units")
    critical: float = limit(
        0.9, "policy: fewer than a tenth of the units are left", ease=0.9, high=1.0, unit="fraction of units"
    )

    def sign(self, layer: str, values: Array, facts: Facts) -> Sign | None:
        if facts.nonlinearity.get(layer) in RECTIFIED:
            return None
        return _share_sign(layer, values, self.limits(), "saturated")

    def harmless(self, layer: str, history: History, facts: Facts) -> bool:
        return layer in facts.policy.baselines
