"""Units that do nothing: dormant or saturated in most of a layer."""

from __future__ import annotations

from dataclasses import dataclass

from homeostat.core.component import Cite
from homeostat.diagnosis.condition import Condition, Limits, Sign, graded, limit
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.trends import median

RECTIFIED = frozenset({"relu", "relu6", "threshold"})
"""Nonlinearities whose flat side is what `dormant-units` is about: their saturation is no second finding."""


def _share_signs(history: History, vital: str, limits: Limits, word: str, skip: frozenset[str]) -> dict[str, Sign]:
    found = {}
    for layer in history.layers(vital):
        values = history.series(vital, layer)[1]
        if not values.size or layer in skip:
            continue
        now, first = median(values[-3:]), median(values[:3])
        if (severity := graded(now, limits)) is not None:
            text = f"{now:.0%} of the units of {layer} are {word} (at the start {first:.0%})"
            found[layer] = Sign(severity, text, {"share": round(now, 4), "share_at_start": round(first, 4)})
    return found


@dataclass(frozen=True, kw_only=True)
class DormantUnits(Condition):
    """The share of tau-dormant units of a layer (median of the last 3 readings) is far above what healthy runs show.

    Settings:
        info, warning, critical: shares from which on each severity holds.
    """

    cite = Cite("Sokar, Agarwal, Castro and Evci", 2023, "The Dormant Neuron Phenomenon in Deep RL", "2302.12902")
    reads = ("dormant-units",)
    watch = "dormant-units"
    explanation = (
        "Most units of a layer output next to nothing on the batch: they pass no gradient on, and the layer has become "
        "a narrower one. Some dormant units are ordinary with ReLU, also at initialisation."
    )
    info: float = limit("dormant-units", "info", high=1.0, unit="fraction of units")
    warning: float = limit("dormant-units", "warning", high=1.0, unit="fraction of units")
    critical: float = limit("dormant-units", "critical", high=1.0, unit="fraction of units")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        return _share_signs(history, "dormant-units", self.limits(), "dormant", frozenset())


@dataclass(frozen=True, kw_only=True)
class SaturatedUnits(Condition):
    """The share of saturated units of a layer (median of the last 3 readings) is far above what healthy runs show.

    Rectified layers are left to `dormant-units`: there "saturated" means "off on nearly every sample", which a healthy
    sparse code shows too.

    Settings:
        info, warning, critical: shares from which on each severity holds.
    """

    cite = Cite("Glorot and Bengio", 2010, "Understanding the difficulty of training deep networks", "", "section 3")
    reads = ("saturated-units",)
    watch = "saturated-units"
    explanation = (
        "Most units of a layer sit on a flat part of their nonlinearity for nearly every input, so next to no gradient "
        "passes through them."
    )
    info: float = limit("saturated-units", "info", high=1.0, unit="fraction of units")
    warning: float = limit("saturated-units", "warning", high=1.0, unit="fraction of units")
    critical: float = limit("saturated-units", "critical", high=1.0, unit="fraction of units")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        rectified = frozenset(layer for layer, kind in facts.nonlinearity.items() if kind in RECTIFIED)
        return _share_signs(history, "saturated-units", self.limits(), "saturated", rectified)
