"""Representations that use only a few directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from homeostat.core.component import Cite
from homeostat.diagnosis.condition import Condition, Sign, graded, limit
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.trends import blocks, median


def peak(values: Array) -> float:
    """The highest level a series has had: the largest median of 5 consecutive readings, over at most 64 blocks."""
    count = min(values.size // 5, 64)
    return float(np.max(blocks(values, count))) if count else float("nan")


@dataclass(frozen=True, kw_only=True)
class RankCollapse(Condition):
    """The effective rank of a layer's activations is tiny: both in itself and against the layer's own peak.

    Both must hold: a classifier with few classes, or a regression on few inputs, ends with few directions by design,
    and a rank that falls from 80 to 20 is how features form.

    Settings:
        info, warning, critical: effective ranks at or below which each severity may hold.
        drop: share of the layer's own peak at or below which it must be; a layer that started collapsed, at or below
            `stillborn`, needs no drop.
        stillborn: effective rank at or below which the first readings are a collapse already.
    """

    cite = Cite("Kumar, Agarwal, Ghosh and Levine", 2021, "Implicit Under-Parameterization", "2010.14498")
    reads = ("effective-rank",)
    watch = "effective-rank"
    worse = "lower"
    explanation = (
        "The layer's outputs for different inputs lie in a few directions only, so what comes after can hardly tell "
        "inputs apart. In reinforcement learning this came before failures to fit new targets."
    )
    info: float = limit("rank-collapse", "info", low=1.0, unit="directions")
    warning: float = limit("rank-collapse", "warning", low=1.0, unit="directions")
    critical: float = limit("rank-collapse", "critical", low=1.0, unit="directions")
    drop: float = limit("rank-collapse", "drop", high=1.0, unit="of the peak")
    stillborn: float = limit("rank-collapse", "stillborn", low=1.0, unit="directions")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        found = {}
        for layer in history.layers("effective-rank"):
            values = history.series("effective-rank", layer)[1]
            if values.size < 5:
                continue
            now, top = median(values[-3:]), peak(values)
            severity = graded(now, self.limits(), "lower")
            if severity is not None and (now <= self.drop * top or top <= self.stillborn):
                text = f"the outputs of {layer} have an effective rank of {now:.1f} (at its peak {top:.1f})"
                found[layer] = Sign(severity, text, {"effective_rank": round(now, 3), "peak": round(top, 3)})
        return found
