"""Norms of gradients per layer, and of updates relative to the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from homeostat.core.component import Cite
from homeostat.core.snapshot import Reading, Readings
from homeostat.core.vital import LayerVital, Partials, Reducers
from homeostat.vitals.tensors import known, layer_sums, root


def gradient_norm(gradients: Mapping[str, Tensor], replica_axes: int = 0) -> dict[str, Tensor]:
    """Euclidean norm of each layer's gradient, weight and bias together.

    Args:
        gradients: parameter name -> gradient [*R, *shape].
        replica_axes: number of leading replica axes.

    Returns:
        layer -> [*R], at least 0; NaN if an entry is not finite (or the sum of squares overflows float32).

    Source: Pascanu, Mikolov and Bengio (2013), arXiv:1211.5063.
    """
    return {layer: root(square) for layer, square in layer_sums(gradients, replica_axes).items()}


def update_ratio(
    updates: Mapping[str, Tensor], weights: Mapping[str, Tensor], replica_axes: int = 0
) -> dict[str, Tensor]:
    """Norm of the update divided by the norm of the weights before it, per layer: ||dW|| / ||W||.

    Args:
        updates: parameter name -> value after the step minus value before [*R, *shape].
        weights: parameter name -> value before the step, same shapes.
        replica_axes: number of leading replica axes.

    Returns:
        layer -> [*R], at least 0, about 1e-3 in healthy training; NaN if the weights are all zero or an entry is not
        finite. Layers missing in either are left out.

    Source: You, Gitman and Ginsburg (2017), arXiv:1708.03888 (the inverse of their ratio).
    """
    below = layer_sums({name: weights[name] for name in updates if name in weights}, replica_axes)
    above = layer_sums({name: updates[name] for name in updates if name in weights}, replica_axes)
    return {layer: _ratio(above[layer], below[layer]) for layer in above}


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return known((above / below).sqrt(), above.isfinite() & below.isfinite() & (below > 0))


@dataclass(frozen=True, kw_only=True)
class GradientNorm(LayerVital):
    """Euclidean norm of each layer's gradient as the optimizer received it: `gradient_norm`.

    Parts that are combined hold different parameters (shards); micro-batches are already summed in the gradient.

    >>> GradientNorm()(Readings(gradients={"fc.weight": torch.tensor([3.0]), "fc.bias": torch.tensor([4.0])}))["fc"]
    tensor(5., dtype=torch.float64)
    """

    cite = Cite(
        "Pascanu, Mikolov and Bengio", 2013, "On the difficulty of training recurrent neural networks", "1211.5063"
    )
    reads = frozenset({Reading.GRADIENTS})
    range = (0.0, float("inf"))
    worse = "neither"
    unit = "loss per unit of weight"
    reducers: ClassVar[Reducers] = {"square": "sum"}

    def measure(self, readings: Readings) -> Partials:
        sums = layer_sums(readings.gradients, readings.replica_axes)
        return {layer: {"square": square} for layer, square in sums.items()}

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        return root(fields["square"])


@dataclass(frozen=True, kw_only=True)
class UpdateRatio(LayerVital):
    """Norm of a layer's update over the norm of its weights: `update_ratio`.

    >>> w = torch.ones(4, 4)
    >>> UpdateRatio()(Readings(weights={"fc.weight": w}, updates={"fc.weight": 0.5 * w}))["fc"]
    tensor(0.5000, dtype=torch.float64)
    """

    cite = Cite("You, Gitman and Ginsburg", 2017, "Large Batch Training of Convolutional Networks", "1708.03888")
    reads = frozenset({Reading.UPDATES, Reading.WEIGHTS})
    range = (0.0, float("inf"))
    worse = "neither"
    unit = "relative change per step"
    reducers: ClassVar[Reducers] = {"above": "sum", "below": "sum"}

    def measure(self, readings: Readings) -> Partials:
        names = [name for name in readings.updates if name in readings.weights]
        above = layer_sums({name: readings.updates[name] for name in names}, readings.replica_axes)
        below = layer_sums({name: readings.weights[name] for name in names}, readings.replica_axes)
        return {layer: {"above": above[layer], "below": below[layer]} for layer in above}

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        return _ratio(fields["above"], fields["below"])
