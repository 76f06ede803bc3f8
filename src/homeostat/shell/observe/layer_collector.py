"""What the losses of a run show of the architecture over time: attention, batch norms, codes, made items."""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

from homeostat.shell.hooks.layer_graph import AttentionReading, NormReading
from homeostat.shell.hooks.loss_graph import LossReading

RECENT = 5
"""Readings whose median is the present value."""
SETTLED = 100
"""Steps after which running statistics are looked at: with a momentum of 0.1 nothing is left of their start."""


class LayerCollector:
    """Keeps the latest readings, and the first of attention."""

    def __init__(self) -> None:
        self._attention: deque[AttentionReading] = deque(maxlen=RECENT)
        self._first: AttentionReading | None = None
        self._attentions = 0
        self._norms: deque[NormReading] = deque(maxlen=RECENT)
        self._codes: deque[float] = deque(maxlen=RECENT)
        self._pairs: deque[float] = deque(maxlen=RECENT)

    def see(self, step: int, reading: LossReading) -> None:
        """Take in what the graph of a loss has shown."""
        attention, norms = reading.attention, reading.norms
        if reading.code_divergence is not None:
            self._codes.append(reading.code_divergence)
        if reading.made_spread is not None:
            self._pairs.append(reading.made_spread)
        if attention is not None:
            self._first = self._first or attention
            self._attentions += 1
            self._attention.append(attention)
        if norms is not None and step >= SETTLED:
            self._norms.append(norms)

    def facts(self) -> dict[str, Any]:
        """The fields of `LossFacts` that are about layers."""
        last, first = self._attention, self._first
        return {
            "attentions": self._attentions,
            "attention_entropy": _median([a.entropy for a in last]),
            "first_attention_entropy": math.nan if first is None else first.entropy,
            "attention_spread": _median([a.spread for a in last]),
            "first_attention_spread": math.nan if first is None else first.spread,
            "norms": len(self._norms),
            "norms_frozen": sum(not n.training for n in self._norms),
            "norms_unset": sum(n.unset for n in self._norms),
            "norm_values": _median([float(n.values) for n in self._norms]),
            "norm_shift": _median([n.shift for n in self._norms]),
            "norm_ratio": _median([n.ratio for n in self._norms]),
            "codes": len(self._codes),
            "code_divergence": _median(list(self._codes)),
            "pairs": len(self._pairs),
            "made_spread": _median(list(self._pairs)),
        }


def _median(values: list[float]) -> float:
    return median(values) if values else math.nan
