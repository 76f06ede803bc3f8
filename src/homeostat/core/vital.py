"""The contract of a vital: a measurement made of partials that reduce across micro-batches, ranks and windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from homeostat.core.component import Component
from homeostat.core.readings import Reading, Readings

Partials = dict[str, dict[str, Tensor]]
"""layer -> {field -> tensor}; every field has a declared reducer."""

Reducer = Literal["sum", "max", "min", "cat"]
NETWORK = "network"
"""The layer name of a value that belongs to the network as a whole."""


@dataclass(frozen=True, kw_only=True)
class Vital(Component, abstract=True):
    """A measurement. `measure` turns a snapshot into partials, `finish` turns (combined) partials into values.

    Values are tensors [*R] on the device of the readings; nothing is moved to the host here. A value that cannot be
    measured is NaN ("missing"), never 0: constant or empty input, NaN in, too few samples.

    Class attributes:
        reads: the readings needed. A vital that reads PROBE is measured only where a probe was given.
        range: smallest and largest possible value (math.inf where unbounded).
        worse: the direction in which a network is sick.
        unit: what the number counts.
        cost: "cheap" (elementwise), "moderate" (one Gram matrix per layer) or "heavy" (many passes).
        default: measured by `vitals="default"`.
        invariant: what changes nothing: "units" (their order), "samples" (their order), "scale" (activations times a
            positive number), "rotation" (of the feature space). The law "invariant" checks each one named.
        reducers: field of the partials -> how two of them combine; "cat" joins along the sample axis (-2).
    """

    kind: ClassVar[str] = "vital"
    reads: ClassVar[frozenset[Reading]]
    range: ClassVar[tuple[float, float]]
    worse: ClassVar[Literal["higher", "lower", "neither"]]
    unit: ClassVar[str]
    cost: ClassVar[Literal["cheap", "moderate", "heavy"]] = "cheap"
    default: ClassVar[bool] = True
    invariant: ClassVar[frozenset[str]] = frozenset()
    reducers: ClassVar[Mapping[str, Reducer]] = {}

    def measure(self, readings: Readings) -> Partials:
        """Partials of one snapshot. Pure."""
        raise NotImplementedError

    def finish(self, partials: Partials) -> dict[str, Tensor]:
        """Values per layer from partials. Pure."""
        raise NotImplementedError

    def __call__(self, readings: Readings) -> dict[str, Tensor]:
        """`finish(measure(readings))`: the one-shot value."""
        return self.finish(self.measure(readings))

    def combine(self, first: Partials, second: Partials) -> Partials:
        """Join the partials of two parts of the same data; a layer present in only one passes through."""
        joined = {layer: dict(fields) for layer, fields in first.items()}
        for layer, fields in second.items():
            if layer not in joined:
                joined[layer] = dict(fields)
                continue
            for key, value in fields.items():
                joined[layer][key] = _REDUCE[self.reducers[key]](joined[layer][key], value)
        return joined


_REDUCE = {
    "sum": torch.add,
    "max": torch.maximum,
    "min": torch.minimum,
    "cat": lambda a, b: torch.cat([a, b], dim=-2),
}
