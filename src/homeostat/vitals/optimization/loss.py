"""The training loss on which backward() was called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite
from homeostat.core.snapshot import Reading, Readings
from homeostat.core.vital import NetworkVital, Reducers
from homeostat.vitals.tensors import known, real


@dataclass(frozen=True, kw_only=True)
class Loss(NetworkVital):
    """The loss on which backward() was called since the last step, [*R]. Combined parts (ranks, steps) are averaged.

    Missing if it is not finite; the vital `non-finite` counts it.

    >>> Loss()(Readings(loss=torch.tensor(0.25)))["network"]
    tensor(0.2500)
    """

    cite = Cite("Robbins and Monro", 1951, "A Stochastic Approximation Method", "", "Annals of Mathematical Statistics")
    reads = frozenset({Reading.LOSS})
    range = (float("-inf"), float("inf"))
    worse = "higher"
    unit = "loss"
    reducers: ClassVar[Reducers] = {"total": "sum", "parts": "sum"}

    def fields(self, readings: Readings) -> Mapping[str, Tensor] | None:
        if readings.loss is None:
            return None
        loss = real(readings.loss.detach())
        return {"total": loss, "parts": torch.ones_like(loss)}

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        mean = fields["total"] / fields["parts"]
        return known(mean, mean.isfinite())
