"""Common part of the vitals that read activations [*R, N, H]: counts samples; missing if there are too few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from homeostat.core.component import knob
from homeostat.core.snapshot import Reading, Readings
from homeostat.core.vital import LayerVital, Partials
from homeostat.vitals.tensors import known, sample_count


@dataclass(frozen=True, kw_only=True)
class ActivationVital(LayerVital, abstract=True):
    """A value per layer from its activations. A subclass defines `partial` and `value`; "samples" is added here.

    Settings:
        min_samples: with fewer samples a layer is missing. A healthy ReLU unit is off on half of its inputs, so with
            one sample half of a healthy layer looks dead; and a rank cannot exceed N. Partials of several batches may
            be combined until the field "samples" (int64 [*R]) reaches this number.
    """

    reads: ClassVar[frozenset[Reading]] = frozenset({Reading.ACTIVATIONS})
    min_samples: int = knob(
        16, low=1, unit="samples", integer=True, source="a unit that is on half of the time is off on all 16 in 1.5e-5"
    )

    def partial(self, activations: Tensor, nonlinearity: str) -> dict[str, Tensor]:
        """Fields of one layer, each with its reducer. Pure."""
        raise NotImplementedError

    def measure(self, readings: Readings) -> Partials:
        """Partials of every captured layer."""
        return {
            layer: {
                "samples": sample_count(h),
                **self.partial(h.detach(), readings.nonlinearity.get(layer, "unknown")),
            }
            for layer, h in readings.activations.items()
        }

    def finish(self, partials: Partials) -> dict[str, Tensor]:
        """Value per layer; missing with fewer than `min_samples` samples."""
        return {
            layer: known(self.value(fields), fields["samples"] >= self.min_samples)
            for layer, fields in partials.items()
        }
