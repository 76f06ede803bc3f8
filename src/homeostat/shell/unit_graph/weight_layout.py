"""Locate the rows that make a layer's units, and the columns that use its inputs, in its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from homeostat.core.units import Axis
from homeostat.shell.hooks.torch_internals import TRANSPOSED_CONV, computes_as, own_parameters

NOBODY = -1


@dataclass(frozen=True)
class Block:
    """A range along one dimension of one parameter: the rows of a layer, or its columns.

    Args:
        name: parameter name in the network.
        dim: dimension of the parameter.
        start: first index of the range.
        count: its length; a multiple of the number of units if each has several rows (gates of a GRU).
        size: length of the whole dimension.
        groups: blocks of dimension 0 with different inputs (grouped convolution); `count` covers all of them.
        depth: rows in each of those blocks.
    """

    name: str
    dim: int
    start: int
    count: int
    size: int
    groups: int = 1
    depth: int = 1

    @property
    def whole(self) -> bool:
        """Whether it covers the whole dimension."""
        return self.count == self.size * self.groups

    def axis(self, owner: Tensor) -> Axis:
        """The axis of a parameter whose stretch belongs to units as in `owner`; outside of it nobody does."""
        full = torch.full((self.size * self.groups,), NOBODY, dtype=torch.int64)
        full[self.start : self.start + self.count] = owner.repeat(self.count // max(owner.numel(), 1))
        return Axis(self.name, self.dim, full, self.groups, self.depth)


@dataclass(frozen=True)
class Layout:
    """How a layer's parameters make its units and use its inputs.

    Args:
        width: units it makes.
        axis: feature axis of input and output, counted from the end.
        rows: ranges that make a unit; the weight first.
        columns: ranges that use an input feature.
        biases: name of the bias that the consumer adds, for each of `columns`; None if there is none.
        inner: columns by which the layer uses its own units (the hidden-to-hidden weight of a recurrent layer).
        inner_biases: the biases that are added with them.
        no_rows: reason why its units cannot be edited although it can be followed, or "".
        no_columns: reason why its columns cannot be edited, or "".
    """

    width: int
    axis: int
    rows: tuple[Block, ...]
    columns: tuple[Block, ...]
    biases: tuple[str | None, ...]
    inner: tuple[Block, ...] = ()
    inner_biases: tuple[str | None, ...] = ()
    no_rows: str = ""
    no_columns: str = ""

    def renamed(self, rename: Callable[[str], str]) -> Layout:
        """The same with other parameter names."""

        def blocks(found: tuple[Block, ...]) -> tuple[Block, ...]:
            return tuple(replace(block, name=rename(block.name)) for block in found)

        def names(found: tuple[str | None, ...]) -> tuple[str | None, ...]:
            return tuple(None if name is None else rename(name) for name in found)

        return replace(
            self,
            rows=blocks(self.rows),
            columns=blocks(self.columns),
            biases=names(self.biases),
            inner=blocks(self.inner),
            inner_biases=names(self.inner_biases),
        )


UNIT_AXIS: dict[type[nn.Module], int] = {
    nn.Linear: -1,
    nn.Conv1d: -2,
    nn.Conv2d: -3,
    nn.Conv3d: -4,
    nn.ConvTranspose1d: -2,
    nn.ConvTranspose2d: -3,
    nn.ConvTranspose3d: -4,
}


def unit_class(module: object) -> type[nn.Module] | None:
    """The torch layer whose computation this module has, unchanged, or None."""
    return next((base for base in UNIT_AXIS if computes_as(module, base)), None)


def layout_of(module: Any) -> Layout | None:
    """The layout of a Linear, convolution, transposed convolution or recurrent layer, names within the module."""
    if isinstance(module, nn.RNNBase):
        return _recurrent(module)
    base = unit_class(module)
    if base is None:
        return None
    bias = "bias" if _has_bias(module) else None
    if base is nn.Linear:
        return matrix("weight", (module.out_features, module.in_features), bias)
    if issubclass(base, TRANSPOSED_CONV):
        return _transposed(module, UNIT_AXIS[base], bias)
    return convolution("weight", module.out_channels, module.in_channels, module.groups, UNIT_AXIS[base], bias)


def _has_bias(module: nn.Module) -> bool:
    """Whether a layer adds a bias; reading a parametrized one would compute it."""
    own = own_parameters(module).get("bias") if "bias" in own_parameters(module) else vars(module).get("bias")
    return own is not None or is_parametrized(module, "bias")


def matrix(
    weight: str,
    shape: tuple[int, int],
    bias: str | None,
    *,
    transposed: bool = False,
    start: int = 0,
    total: int | None = None,
    bias_start: int = 0,
    bias_total: int | None = None,
) -> Layout:
    """A matrix product. `shape` is (out, in); rows may be a range of a taller matrix, e.g. fused q, k and v.

    Args:
        transposed: the parameter is stored as [in, out].
        start, total: first row, and number of rows of the parameter.
    """
    out, inputs = shape
    total = out if total is None else total
    along, across = (1, 0) if transposed else (0, 1)
    rows = [Block(weight, along, start, out, total)]
    if bias is not None:
        rows.append(Block(bias, 0, bias_start, out, out if bias_total is None else bias_total))
    part = "" if out == total else "it is a part of a larger matrix"
    foldable = bias if bias_total in (None, out) else None
    return Layout(out, -1, tuple(rows), (Block(weight, across, 0, inputs, inputs),), (foldable,), no_columns=part)


def convolution(weight: str, out: int, inputs: int, groups: int, axis: int, bias: str | None) -> Layout:
    """A convolution with weight [out, in / groups, ...]."""
    rows = [Block(weight, 0, 0, out, out)] + ([Block(bias, 0, 0, out, out)] if bias is not None else [])
    columns = Block(weight, 1, 0, inputs, inputs // groups, groups, out // groups)
    return Layout(out, axis, tuple(rows), (columns,), (bias,))


def _transposed(module: Any, axis: int, bias: str | None) -> Layout:
    """Weight [in, out, ...]. How often an input reaches an output depends on the position, so nothing can be folded."""
    out, inputs = module.out_channels, module.in_channels
    rows = [Block("weight", 1, 0, out, out)] + ([Block(bias, 0, 0, out, out)] if bias is not None else [])
    odd = "it is a transposed convolution with groups" if module.groups > 1 else ""
    columns = (Block("weight", 0, 0, inputs, inputs),)
    return Layout(out, axis, tuple(rows), columns, (None,), no_rows=odd, no_columns=odd)


def _recurrent(module: Any) -> Layout:
    ways = [""] + (["_reverse"] if module.bidirectional else [])
    tall, inputs = {"LSTM": 4, "GRU": 3}.get(module.mode, 1) * module.hidden_size, module.input_size
    biased = bool(module.bias)
    columns = tuple(Block(_of_first_layer("weight_ih", way), 1, 0, inputs, inputs) for way in ways)
    biases = tuple(_of_first_layer("bias_ih", way) if biased else None for way in ways)
    if module.num_layers > 1 or module.bidirectional or module.proj_size:
        kind = type(module).__name__
        odd = f"{kind} with several layers, two directions or a projection: only a plain one-layer {kind} can be edited"
        return Layout(1, -1, (), columns, biases, no_rows=odd)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if biased else 2]
    keys = [_of_first_layer(name) for name in names]
    rows = tuple(Block(key, 0, 0, tall, tall) for key in keys)
    hidden = module.hidden_size
    inner = (Block(keys[1], 1, 0, hidden, hidden),)
    return Layout(hidden, -1, rows, columns, biases, inner, (keys[3] if biased else None,))


def _of_first_layer(name: str, way: str = "") -> str:
    """The parameter's name. Not written out: Python keeps one copy of a written name, and the script's pickles show
    which of their strings are one."""
    return f"{name}_l{0}{way}"
