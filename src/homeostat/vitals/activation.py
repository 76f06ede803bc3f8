"""The common part of every vital that reads activations [*R, N, H]: counting samples, missing when too few."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from homeostat.core.component import knob
from homeostat.core.readings import Reading, Readings
from homeostat.core.vital import Partials, Vital
from homeostat.vitals.tensors import known, sample_count


@dataclass(frozen=True, kw_only=True)
class ActivationVital(Vital, abstract=True):
    """A value per layer from its activations. A subclass gives `partial` and `value`; "samples" is added here.

    Settings:
        min_samples: a layer seen on fewer samples is missing. A healthy ReLU unit is off on half of its inputs, so
            on a batch of 1 half of a healthy layer looks dead, and a rank can never exceed N. Partials of several
            batches may be combined until the field "samples" (int64 [*R]) reaches this number.
    """

    reads: ClassVar[frozenset[Reading]] = frozenset({Reading.ACTIVATIONS})
    min_samples: int = knob(
        16, low=1, unit="samples", integer=True, source="a unit that is on half of the time is off on all 16 in 1.5e-5"
    )

    def partial(self, activations: Tensor, nonlinearity: str) -> dict[str, Tensor]:
        """Fields of one layer, each with its reducer. Pure."""
        raise NotImplementedError

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        """The layer's value [*R] from (combined) fields, NaN where it cannot be known. Pure."""
        raise NotImplementedError

    def measure(self, readings: Readings) -> Partials:
        """Partials of every layer that was captured."""
        return {
            layer: {
                "samples": sample_count(h),
                **self.partial(h.detach(), readings.nonlinearity.get(layer, "unknown")),
            }
            for layer, h in readings.activations.items()
        }

    def finish(self, partials: Partials) -> dict[str, Tensor]:
        """Value per layer; missing where fewer than `min_samples` samples were seen."""
        return {
            layer: known(self.value(fields), fields["samples"] >= self.min_samples)
            for layer, fields in partials.items()
        }
