"""The contract of a vital: a measurement from partials that can be combined over micro-batches, ranks and windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from homeostat.core.component import Component
from homeostat.core.snapshot import Reading, Readings
from homeostat.core.tensors import Reducers, reduced

Partials = dict[str, dict[str, Tensor]]
"""layer -> {field -> tensor}; every field has a declared reducer."""

Worse = Literal["higher", "lower", "neither"]
Cost = Literal["cheap", "moderate", "heavy"]
NETWORK = "network"
"""The layer name of a value of the whole network."""


@dataclass(frozen=True, kw_only=True)
class Vital(Component, abstract=True):
    """A measurement. `measure` computes partials of a snapshot, `finish` values from (combined) partials.

    Values are tensors [*R] on the device of the readings; nothing is moved to the host. A value that cannot be measured
    is NaN ("missing"), never 0: for constant or empty inputs, NaN inputs, too few samples.

    Class attributes:
        reads: the needed readings. A vital that reads PROBE is measured only if a probe is given.
        range: smallest and largest possible value (math.inf if unbounded).
        worse: the direction of unhealthy values.
        unit: unit of the value.
        cost: "cheap" (elementwise), "moderate" (one Gram matrix per layer) or "heavy" (many passes).
        default: measured by `vitals="default"`.
        invariant: transformations that do not change the value: "units" and "samples" (their order), "scale"
            (activations times a positive number), "rotation" (of the feature space). The law "invariant" checks them.
        reducers: field of the partials -> how two of them are combined; "cat" concatenates along the samples (-2).
    """

    kind: ClassVar[str] = "vital"
    reads: ClassVar[frozenset[Reading]]
    range: ClassVar[tuple[float, float]]
    worse: ClassVar[Worse]
    unit: ClassVar[str]
    cost: ClassVar[Cost] = "cheap"
    default: ClassVar[bool] = True
    invariant: ClassVar[frozenset[str]] = frozenset()
    reducers: ClassVar[Reducers] = {}

    def measure(self, readings: Readings) -> Partials:
        """Partials of one snapshot. Pure."""
        raise NotImplementedError

    def finish(self, partials: Partials) -> dict[str, Tensor]:
        """Values per layer from partials. Pure."""
        raise NotImplementedError

    def __call__(self, readings: Readings) -> dict[str, Tensor]:
        """`finish(measure(readings))`."""
        return self.finish(self.measure(readings))

    def combine(self, first: Partials, second: Partials) -> Partials:
        """Combine the partials of two parts of the same data; a layer in only one of them is kept."""
        joined = {layer: dict(fields) for layer, fields in first.items()}
        for layer, fields in second.items():
            if layer not in joined:
                joined[layer] = dict(fields)
                continue
            for key, value in fields.items():
                joined[layer][key] = reduced(self.reducers[key], joined[layer][key], value, axis=-2)
        return joined


@dataclass(frozen=True, kw_only=True)
class LayerVital(Vital, abstract=True):
    """A value for each layer, from the fields of that layer. A subclass defines `measure` and `value`."""

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        """The value [*R] of a layer from its (combined) fields. Pure. Default: its only field."""
        (only,) = fields.values()
        return only

    def finish(self, partials: Partials) -> dict[str, Tensor]:
        return {layer: self.value(fields) for layer, fields in partials.items()}


@dataclass(frozen=True, kw_only=True)
class NetworkVital(LayerVital, abstract=True):
    """One value for the whole network. A subclass defines `fields` and `value`."""

    def fields(self, readings: Readings) -> Mapping[str, Tensor] | None:
        """The fields of one snapshot, or None if its readings are missing. Pure."""
        raise NotImplementedError

    def measure(self, readings: Readings) -> Partials:
        fields = self.fields(readings)
        return {} if fields is None else {NETWORK: dict(fields)}
