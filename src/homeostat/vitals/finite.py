"""How many numbers of a step are NaN or infinite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from homeostat.core.component import Cite
from homeostat.core.readings import Reading, Readings, layer_of
from homeostat.core.vital import NETWORK, Partials, Reducer, Vital
from homeostat.vitals.tensors import real


def non_finite(values: Tensor, replica_axes: int = 0) -> Tensor:
    """Number of entries that are NaN or infinite: [*R, *shape] -> float32 [*R]; 0 is a measured zero.

    Entries are counted by x - x, which is 0 for every finite x and NaN otherwise. On a CPU, where looking at a value
    costs no wait, a finite sum settles the common case in a third of the time.
    """
    flat = values.detach().reshape(*values.shape[:replica_axes], -1) if values.numel() else values.new_zeros(1)
    if flat.device.type == "cpu" and bool(flat.sum(dtype=real(flat[..., :1]).dtype).isfinite()):
        return torch.zeros(flat.shape[:-1])
    return (flat - flat).ne(0).sum(-1, dtype=torch.float32)


@dataclass(frozen=True, kw_only=True)
class NonFinite(Vital):
    """Number of NaN and infinite entries per layer, over its weights, gradients and activations; the loss under
    "network". Zero means that everything was looked at and is finite.

    >>> NonFinite()(Readings(weights={"fc.weight": torch.tensor([1.0, float("inf"), float("nan")])}))["fc"]
    tensor(2.)
    """

    cite = Cite("Micikevicius et al.", 2018, "Mixed Precision Training", "1710.03740")
    reads = frozenset({Reading.WEIGHTS, Reading.GRADIENTS, Reading.ACTIVATIONS, Reading.LOSS})
    range = (0.0, float("inf"))
    worse: ClassVar[Literal["higher", "lower", "neither"]] = "higher"
    unit = "entries"
    invariant = frozenset({"units", "samples", "scale"})
    reducers: ClassVar[Mapping[str, Reducer]] = {"count": "sum"}

    def measure(self, readings: Readings) -> Partials:
        lead = readings.replica_axes
        counts: dict[str, Tensor] = {}
        for name, value in _everything(readings):
            found = non_finite(value, lead)
            counts[name] = counts[name] + found if name in counts else found
        return {layer: {"count": count} for layer, count in counts.items()}

    def finish(self, partials: Partials) -> dict[str, Tensor]:
        return {layer: fields["count"] for layer, fields in partials.items()}


def _everything(readings: Readings) -> list[tuple[str, Tensor]]:
    """(layer, tensor) for every non-empty tensor of the step."""
    found = [(layer_of(n), t) for group in (readings.weights, readings.gradients) for n, t in group.items()]
    found += list(readings.activations.items())
    found += [(NETWORK, readings.loss)] if readings.loss is not None else []
    return [(layer, tensor) for layer, tensor in found if tensor.numel()]
