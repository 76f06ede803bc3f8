"""What the losses of a run show of the architecture over time: attention, batch norms, codes, made items."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from statistics import median

from homeostat.diagnosis.loss_facts import AttentionFacts, BatchNormFacts, GenerativeFacts
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

    def attention(self) -> AttentionFacts:
        """Facts about attention so far."""
        last, first = self._attention, self._first
        return AttentionFacts(
            readings=self._attentions,
            entropy=middle([a.entropy for a in last]),
            spread=middle([a.spread for a in last]),
            first_entropy=math.nan if first is None else first.entropy,
            first_spread=math.nan if first is None else first.spread,
        )

    def batch_norm(self) -> BatchNormFacts:
        """Facts about batch norms at the latest readings."""
        return BatchNormFacts(
            readings=len(self._norms),
            frozen=sum(not n.training for n in self._norms),
            unset=sum(n.unset for n in self._norms),
            values=middle([float(n.values) for n in self._norms]),
            shift=middle([n.shift for n in self._norms]),
            ratio=middle([n.ratio for n in self._norms]),
        )

    def generative(self) -> GenerativeFacts:
        """Facts about codes and generated batches at the latest readings."""
        return GenerativeFacts(len(self._codes), middle(self._codes), len(self._pairs), middle(self._pairs))


def middle(values: Collection[float]) -> float:
    """Median; NaN if there are no values."""
    return median(values) if values else math.nan
