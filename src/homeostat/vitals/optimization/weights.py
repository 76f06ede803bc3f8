"""Norms of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from homeostat.core.component import Cite
from homeostat.core.snapshot import Reading, Readings
from homeostat.core.vital import LayerVital, Partials, Reducers
from homeostat.vitals.tensors import layer_sums, root


def weight_norm(weights: Mapping[str, Tensor], replica_axes: int = 0) -> dict[str, Tensor]:
    """Euclidean norm of each layer's parameters, weight and bias together.

    Args:
        weights: parameter name -> value [*R, *shape].
        replica_axes: number of leading replica axes.

    Returns:
        layer -> [*R], at least 0; NaN if an entry is not finite.

    Source: Lyle et al. (2024), arXiv:2402.18762: growth of this norm is one cause of lost plasticity.
    """
    return {layer: root(square) for layer, square in layer_sums(weights, replica_axes).items()}


@dataclass(frozen=True, kw_only=True)
class WeightNorm(LayerVital):
    """Euclidean norm of each layer's parameters: `weight_norm`. Parts that are combined hold different parameters.

    >>> WeightNorm()(Readings(weights={"fc.weight": torch.ones(4, 4)}))["fc"]
    tensor(4., dtype=torch.float64)
    """

    cite = Cite("Lyle et al.", 2024, "Disentangling the Causes of Plasticity Loss in Neural Networks", "2402.18762")
    reads = frozenset({Reading.WEIGHTS})
    range = (0.0, float("inf"))
    worse = "higher"
    unit = "norm"
    reducers: ClassVar[Reducers] = {"square": "sum"}

    def measure(self, readings: Readings) -> Partials:
        sums = layer_sums(readings.weights, readings.replica_axes)
        return {layer: {"square": square} for layer, square in sums.items()}

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        return root(fields["square"])
