"""Rank collapse: representations that use only a few directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from homeostat.core.component import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import LayerCondition, Sign, graded
from homeostat.diagnosis.example_histories import ExampleHistory, Point
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.loss_series import FIT
from homeostat.diagnosis.remedies import CONTINUAL_BACKPROP, L2_INIT, LOWER_RATE, SHRINK_AND_PERTURB, SPECTRAL
from homeostat.diagnosis.thresholds import EARLY_NOTICE, limit, measured
from homeostat.diagnosis.trends import blocks, median

EXPLAINED = 0.8
"""Share of the variance of targets in a batch from which on a network is taken to distinguish inputs."""
NARROW = 4
"""Largest number of units of a layer whose low rank is due to its width."""


def peak(values: Array) -> float:
    """The peak level of a series: the largest median of 5 successive readings, over at most 64 blocks; with fewer
    readings the largest value."""
    count = min(values.size // 5, 64)
    return float(np.max(blocks(values, count) if count else values))


def _losing_rank(t: float, ill: float) -> list[Point]:
    return [("effective-rank", "fc.1", 9.0 ** (1 - ill * min(1.0, 2 * t)))]


@dataclass(frozen=True, kw_only=True)
class RankCollapse(LayerCondition):
    """The effective rank of a layer's activations is very low, both absolutely and relative to the layer's peak.

    Both must hold: a classifier with few classes, or a regression on few inputs, needs few directions, and a rank that
    falls from 80 to 20 is usual when features form.

    Layers of at most `NARROW` units are not judged. It is info at most in layers that only predict returns in a policy
    gradient, and in networks whose outputs explain most of the variance of regression targets: state values may have a
    large common part and need few directions.

    Settings:
        info, warning, critical: largest effective rank of each severity.
        drop: largest share of the layer's peak; a layer that started collapsed, at or below `stillborn`, needs no drop.
        stillborn: effective rank at or below which the first readings already count as a collapse.
    """

    cite = Cite.of("implicit-under-parameterization")
    reads = ("effective-rank",)
    outcome = "effective-rank"
    explains = ("output-collapse",)
    worse = "lower"
    explanation = (
        "The layer's outputs for different inputs lie in a few directions only, so what comes after can hardly tell "
        "inputs apart. In reinforcement learning this came before failures to fit new targets."
    )
    remedies = (L2_INIT, SHRINK_AND_PERTURB, CONTINUAL_BACKPROP, SPECTRAL, LOWER_RATE)
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"losing rank": _losing_rank}
    fewest = 3
    info: float = limit(3.5, EARLY_NOTICE, ease=1.25, low=1.0, unit="directions")
    warning: float = measured((2.5, 2.2, 2.0, 1.8, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1), ease=1.25, low=1.0, unit="directions")
    critical: float = limit(
        1.3, "policy: all inputs give nearly one and the same direction", ease=1.2, low=1.0, unit="directions"
    )
    drop: float = limit(
        0.25,
        "policy: three quarters lost; not enough alone, because healthy autoencoders pass through 0.13",
        ease=1.25,
        high=1.0,
        unit="of the peak",
    )
    stillborn: float = limit(
        2.0,
        "policy: below the rank that any healthy layer of the corpus ever had",
        ease=1.2,
        low=1.0,
        unit="directions",
    )

    def sign(self, layer: str, values: Array, facts: Facts) -> Sign | None:
        if facts.widths.get(layer, NARROW + 1) <= NARROW:
            return None
        now, top = median(values[-3:]), peak(values)
        severity = graded(now, self.limits(), "lower")
        if severity is None or not (now <= self.drop * top or top <= self.stillborn):
            return None
        text = f"the outputs of {layer} have an effective rank of {now:.1f} (at its peak {top:.1f})"
        return Sign(severity, text, {"effective_rank": round(now, 3), "peak": round(top, 3)})

    def harmless(self, layer: str, history: History, facts: Facts) -> bool:
        return layer in facts.policy.baselines or (not facts.policy.policies and self._fits(layer, history))

    @staticmethod
    def _fits(layer: str, history: History) -> bool:
        """Whether the network of this layer explains its targets."""
        for name in history.layers(FIT):
            if layer.startswith(name.removesuffix(NETWORK)):
                values = history.recent(FIT, name, 8)
                return values.size == 8 and median(values) >= EXPLAINED
        return False
