"""Share of weights that are exactly zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite
from homeostat.core.snapshot import Reading, Readings, layer_of
from homeostat.core.vital import LayerVital, Partials, Reducers
from homeostat.vitals.tensors import known, precise


def sparsity(weights: Mapping[str, Tensor], replica_axes: int = 0) -> dict[str, Tensor]:
    """Share of each layer's weights that are exactly 0.

    Args:
        weights: parameter name -> value [*R, *shape]. Only matrices and kernels count; biases and norms often start
            at 0.
        replica_axes: how many leading axes are replica axes.

    Returns:
        layer -> float64 [*R] in [0, 1]; NaN where an entry is not finite.

    Source: Liu et al. (2021), arXiv:2106.10404, section 2: sparsity as the share of zero weights.
    """
    return {layer: _share(fields) for layer, fields in _counts(weights, replica_axes).items()}


@dataclass(frozen=True, kw_only=True)
class Sparsity(LayerVital):
    """Share of each layer's weights that are exactly 0: `sparsity`. Parts that are combined hold different weights.

    Not measured by default. 0 for a dense network. For a pruned network it shows the actual share of zeros after the
    optimizer's step.

    >>> Sparsity()(Readings(weights={"fc.weight": torch.eye(4)}))["fc"]
    tensor(0.7500, dtype=torch.float64)
    """

    cite = Cite.of("granet")
    reads = frozenset({Reading.WEIGHTS})
    range = (0.0, 1.0)
    worse = "neither"
    unit = "fraction of weights"
    default = False
    reducers: ClassVar[Reducers] = {"zeros": "sum", "count": "sum", "lost": "sum"}

    def measure(self, readings: Readings) -> Partials:
        return _counts(readings.weights, readings.replica_axes)

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        return _share(fields)


def _counts(weights: Mapping[str, Tensor], replica_axes: int) -> Partials:
    """Layer -> number of zero weights, of all weights, of non-finite weights: float64 [*R] each."""
    found: Partials = {}
    for name, value in weights.items():
        if value.ndim - replica_axes < 2 or not value.numel():
            continue
        flat = value.detach().reshape(*value.shape[:replica_axes], -1)
        marks = {"zeros": flat == 0, "count": torch.ones_like(flat, dtype=torch.bool), "lost": ~flat.isfinite()}
        fields = {key: precise(mark.sum(-1)) for key, mark in marks.items()}
        before = found.get(layer_of(name))
        found[layer_of(name)] = fields if before is None else {key: before[key] + fields[key] for key in fields}
    return found


def _share(fields: Mapping[str, Tensor]) -> Tensor:
    return known(fields["zeros"] / fields["count"], fields["lost"] == 0)
