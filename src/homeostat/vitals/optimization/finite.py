"""Number of NaN and infinite values in a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite
from homeostat.core.snapshot import Reading, Readings, layer_of
from homeostat.core.vital import NETWORK, LayerVital, Partials, Reducers
from homeostat.vitals.tensors import real, stored


def non_finite(values: Tensor, replica_axes: int = 0) -> Tensor:
    """Number of entries that are NaN or infinite: [*R, *shape] -> float32 [*R].

    x - x is 0 for every finite x and NaN otherwise. On a CPU a finite sum decides the common case in a third of the
    time; on other devices reading it would wait.
    """
    values = stored(values)
    flat = values.detach().reshape(*values.shape[:replica_axes], -1) if values.numel() else values.new_zeros(1)
    dtype = flat.dtype if flat.is_complex() else real(flat[..., :1]).dtype
    if flat.device.type == "cpu" and bool(flat.sum(dtype=dtype).isfinite()):
        return torch.zeros(flat.shape[:-1])
    return (flat - flat).ne(0).sum(-1, dtype=torch.float32)


@dataclass(frozen=True, kw_only=True)
class NonFinite(LayerVital):
    """Number of NaN and infinite entries per layer, over its weights, gradients and activations. The loss counts under
    "network". Zero means that all were checked and are finite.

    >>> NonFinite()(Readings(weights={"fc.weight": torch.tensor([1.0, float("inf"), float("nan")])}))["fc"]
    tensor(2.)
    """

    cite = Cite.of("mixed-precision")
    reads = frozenset({Reading.WEIGHTS, Reading.GRADIENTS, Reading.ACTIVATIONS, Reading.LOSS})
    range = (0.0, float("inf"))
    worse = "higher"
    unit = "entries"
    invariant = frozenset({"units", "samples", "scale"})
    reducers: ClassVar[Reducers] = {"count": "sum"}

    def measure(self, readings: Readings) -> Partials:
        lead = readings.replica_axes
        counts: dict[str, Tensor] = {}
        for name, value in _everything(readings):
            found = non_finite(value, lead)
            counts[name] = counts[name] + found if name in counts else found
        return {layer: {"count": count} for layer, count in counts.items()}


def _everything(readings: Readings) -> list[tuple[str, Tensor]]:
    """(layer, tensor) for every non-empty tensor of the step."""
    found = [(layer_of(n), t) for group in (readings.weights, readings.gradients) for n, t in group.items()]
    found += list(readings.activations.items())
    found += [(NETWORK, readings.loss)] if readings.loss is not None else []
    return [(layer, tensor) for layer, tensor in found if tensor.numel()]
