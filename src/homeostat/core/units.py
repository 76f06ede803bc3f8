"""Where the units of a layer live: which rows of which weights make one, which columns of which weights use it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Axis:
    """How the units of a group lie along one dimension of one parameter or buffer.

    Args:
        name: parameter (or buffer) name in the network.
        dim: dimension of the parameter, not counting replica axes.
        owner: for every index along `dim`, the unit it belongs to, or -1 for none of them: int64 [size of dim]. The
            identity for a plain layer; each unit repeated over its positions after a flatten.
    """

    name: str
    dim: int
    owner: Tensor

    @cached_property
    def plain(self) -> bool:
        """Whether index i belongs to unit i, all along."""
        return torch.equal(self.owner, torch.arange(self.owner.numel(), device=self.owner.device))

    def spread(self, per_unit: Tensor, ndim: int, fill: float | bool = 0) -> Tensor:
        """Lay a value per unit out along the parameter's dimension, broadcastable over the parameter.

        Args:
            per_unit: [*R, H].
            ndim: dimensions of the parameter without replica axes.
            fill: value where no unit owns the index.

        Returns:
            [*R, 1, .., size, .., 1] with `size` at `dim`.
        """
        laid = per_unit
        if not self.plain or per_unit.shape[-1] != self.owner.numel():
            owner = self.owner.to(per_unit.device)
            laid = per_unit[..., owner.clamp(min=0)]
            laid = torch.where(owner >= 0, laid, torch.as_tensor(fill, dtype=laid.dtype, device=laid.device))
        shape = [1] * ndim
        shape[self.dim] = self.owner.numel()
        return laid.reshape(*per_unit.shape[:-1], *shape)

    def total(self, values: Tensor, ndim: int, width: int) -> Tensor:
        """Sum `values` [*R, *shape] over everything but the units: [*R, H]."""
        lead = values.ndim - ndim
        moved = values.movedim(lead + self.dim, lead)
        flat = moved.reshape(*moved.shape[:lead], moved.shape[lead], -1).sum(-1)
        if self.plain and width == self.owner.numel():
            return flat
        owner = self.owner.to(values.device)
        onehot = (owner[:, None] == torch.arange(width, device=values.device)).to(flat.dtype)
        return flat @ onehot


@dataclass(frozen=True, eq=False)
class UnitGroup:
    """The hidden units of one layer, with everything that makes, carries and uses them. Verified by perturbation.

    Args:
        layer: name of the producing layer.
        width: number of units H.
        rows: what makes a unit: the producer's weight (dim 0 of a Linear or Conv) and its bias.
        carriers: per-unit state of norms between producer and consumers, e.g. LayerNorm weight and bias.
        buffers: per-unit buffers of those norms, e.g. running_mean and running_var.
        columns: what uses a unit: dim 1 of the consumers' weights.
        nonlinearity: "relu", "gelu", "tanh", ..., "linear" or "unknown".
        consumer_biases: name of the bias each consumer has, aligned with `columns` (None where there is none); a
            unit's mean activation can be folded into it.
    """

    layer: str
    width: int
    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    carriers: tuple[Axis, ...] = ()
    buffers: tuple[Axis, ...] = ()
    nonlinearity: str = "unknown"
    consumer_biases: tuple[str | None, ...] = ()

    @property
    def weight(self) -> Axis:
        """The producer's weight rows."""
        return self.rows[0]
