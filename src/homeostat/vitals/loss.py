"""The training loss itself, as backward() saw it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from homeostat.core.component import Cite
from homeostat.core.readings import Reading, Readings
from homeostat.core.vital import NETWORK, Partials, Reducer, Vital
from homeostat.vitals.tensors import known, real


@dataclass(frozen=True, kw_only=True)
class Loss(Vital):
    """What backward() was called on since the last step, [*R]; the mean over combined parts (ranks, steps of a window).

    Missing when it is not finite: the vital `non-finite` says so.

    >>> Loss()(Readings(loss=torch.tensor(0.25)))["network"]
    tensor(0.2500)
    """

    cite = Cite("Robbins and Monro", 1951, "A Stochastic Approximation Method", "", "Annals of Mathematical Statistics")
    reads = frozenset({Reading.LOSS})
    range = (float("-inf"), float("inf"))
    worse: ClassVar[Literal["higher", "lower", "neither"]] = "higher"
    unit = "loss"
    reducers: ClassVar[Mapping[str, Reducer]] = {"total": "sum", "parts": "sum"}

    def measure(self, readings: Readings) -> Partials:
        if readings.loss is None:
            return {}
        loss = real(readings.loss.detach())
        return {NETWORK: {"total": loss, "parts": torch.ones_like(loss)}}

    def finish(self, partials: Partials) -> dict[str, Tensor]:
        means = {layer: fields["total"] / fields["parts"] for layer, fields in partials.items()}
        return {layer: known(mean, mean.isfinite()) for layer, mean in means.items()}
