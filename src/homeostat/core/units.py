"""Unit groups: the rows of weights that make the units of a layer, and the columns of weights that use them."""

# Torch's stubs leave `Tensor.unflatten` untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Axis:
    """The positions of a group's units along one dimension of a parameter or buffer.

    Args:
        name: parameter (or buffer) name in the network.
        dim: dimension of the parameter, not counting replica axes.
        owner: the unit of every index along `dim`, or -1 for none: int64 [size of dim]. The identity for a plain layer;
            after a flatten each unit is repeated over its positions.
        groups: number of equal blocks of dimension 0, each with its own part of `owner`, which is then
            [groups * size of dim]: the columns of a grouped convolution, where a block of outputs uses a block of
            inputs.
        depth: rows in each block.
    """

    name: str
    dim: int
    owner: Tensor
    groups: int = 1
    depth: int = 1

    @cached_property
    def plain(self) -> bool:
        """Whether every index i belongs to unit i."""
        return torch.equal(self.owner, torch.arange(self.owner.numel(), device=self.owner.device))

    def spread(self, per_unit: Tensor, ndim: int, fill: float | bool = 0) -> Tensor:
        """Spread one value per unit along the dimension, broadcastable to the parameter.

        Args:
            per_unit: [*R, H].
            ndim: number of dimensions of the parameter without replica axes.
            fill: value for indices of no unit.

        Returns:
            [*R, 1, .., size, .., 1] with `size` at `dim`; with groups also the rows at dimension 0.
        """
        laid = per_unit
        if not self.plain or per_unit.shape[-1] != self.owner.numel():
            owner = self.owner.to(per_unit.device)
            laid = per_unit[..., owner.clamp(min=0)]
            laid = torch.where(owner >= 0, laid, torch.as_tensor(fill, dtype=laid.dtype, device=laid.device))
        shape = [1] * ndim
        shape[self.dim] = self.owner.numel() // self.groups
        if self.groups > 1:
            shape[0] = self.groups * self.depth
            laid = laid.unflatten(-1, (self.groups, 1, -1)).expand(*laid.shape[:-1], self.groups, self.depth, -1)
        return laid.reshape(*per_unit.shape[:-1], *shape)

    def total(self, values: Tensor, ndim: int, width: int) -> Tensor:
        """Sum `values` [*R, *shape] per unit: [*R, H]."""
        lead = values.ndim - ndim
        if self.groups > 1:
            split = values.unflatten(lead, (self.groups, self.depth)).movedim(lead + self.dim + 1, lead + 1)
            flat = split.flatten(lead + 2).sum(-1).flatten(lead)
        else:
            moved = values.movedim(lead + self.dim, lead)
            flat = moved.reshape(*moved.shape[:lead], moved.shape[lead], -1).sum(-1)
        if self.plain and width == self.owner.numel():
            return flat
        owner = self.owner.to(values.device)
        onehot = (owner[:, None] == torch.arange(width, device=values.device)).to(flat.dtype)
        return flat @ onehot


@dataclass(frozen=True, eq=False)
class UnitGroup:
    """The hidden units of a layer, with all parameters that make, carry and use them. Verified by perturbation.

    Args:
        layer: name of the producing layer.
        width: number of units H.
        rows: the parameters that make a unit: the layer's weight (dim 0 of a Linear or Conv) and bias. A gated layer
            has the rows of gate and value, in one matrix or two; a recurrent layer those of all its gates.
        carriers: per-unit parameters of norms between the layer and its consumers, e.g. LayerNorm weight and bias.
        buffers: per-unit buffers of those norms, e.g. running_mean and running_var.
        columns: the parameters that use a unit: dim 1 of the consumers' weights.
        nonlinearity: "relu", "gelu", "tanh", ..., "linear" or "unknown".
        consumer_biases: name of each consumer's bias, aligned with `columns`, or None; the effect of a unit's mean
            activation can be added to it.
        mixers: norms between the layer and its consumers (or a consumer and its input) with statistics over several
            units: LayerNorm, GroupNorm, RMSNorm. With one, changing a unit changes the outputs of all others, even if
            the unit is dead or has no columns, so the function cannot be preserved exactly.
    """

    layer: str
    width: int
    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    carriers: tuple[Axis, ...] = ()
    buffers: tuple[Axis, ...] = ()
    nonlinearity: str = "unknown"
    consumer_biases: tuple[str | None, ...] = ()
    mixers: tuple[str, ...] = ()

    @property
    def weight(self) -> Axis:
        """The rows of the layer's weight."""
        return self.rows[0]
