"""Follows the units of a layer through the autograd graph of the user's forward pass.

Only names, shapes and saved dimensions of the nodes are read; nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from homeostat.core.signals import pass_on
from homeostat.shell.hooks.graph_values import children
from homeostat.shell.hooks.torch_internals import node_shapes, saved

Key = tuple[Hashable, int]
"""A value of the forward pass: its autograd node and the number of the node's output."""
MOST_NODES = 200_000
"""Largest number of nodes that are read, because a graph over many steps may have more."""
LARGEST_OWNER = 1 << 22

_FUNCTIONS = {
    "Relu": "relu",
    "Gelu": "gelu",
    "Silu": "silu",
    "Elu": "elu",
    "Celu": "celu",
    "LeakyRelu": "leaky_relu",
    "RreluWithNoise": "leaky_relu",
    "PreluKernel": "prelu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "LogSigmoid": "logsigmoid",
    "Softplus": "softplus",
    "Mish": "mish",
    "Hardtanh": "hardtanh",
    "Hardsigmoid": "hardsigmoid",
    "Hardswish": "hardswish",
    "Hardshrink": "hardshrink",
    "Softshrink": "softshrink",
    "Threshold": "threshold",
}
"""Node of an elementwise activation -> its name."""
_ELEMENTWISE = frozenset(
    "Abs Atan Clamp ClampMin ClampMax Cos Cosh Erf Exp Expm1 Log Log1P Maximum Minimum Pow Reciprocal Rsqrt Sign Sin "
    "Sinh Sqrt Where".split()
)
"""Nodes of other elementwise functions."""
_ARITHMETIC = frozenset(("Add", "Sub", "Mul", "Div"))
_SAME_AXES = frozenset(
    "Clone ToCopy Alias NativeDropout Neg MaskedFill ConstantPadNd Expand Slice NativeBatchNorm CudnnBatchNorm "
    "MiopenBatchNorm NativeLayerNorm NativeGroupNorm FusedRmsNorm MaxPool2DWithIndices MaxPool3DWithIndices AvgPool2D "
    "AvgPool3D AdaptiveAvgPool2D AdaptiveAvgPool3D AdaptiveMaxPool2D AdaptiveMaxPool3D UpsampleNearest2D "
    "UpsampleBilinear2D".split()
)
"""Nodes whose output has the units of their first input along the same axes."""
_PLAIN_MOVES = frozenset(("Clone", "ToCopy", "Alias", "NativeDropout", "View", "UnsafeView", "Transpose", "Permute"))
_OF_ELEMENTS = _PLAIN_MOVES | _ELEMENTWISE | _ARITHMETIC | frozenset(_FUNCTIONS)
_RESHAPES = frozenset(("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Flatten", "Unflatten"))


@dataclass(frozen=True, eq=False)
class Place:
    """Positions of a layer's units in a value.

    Args:
        owner: unit of each feature, -1 for none; length 1 along the axes on which it does not depend.
        function: function of the units so far: "linear", an activation's name, or "unknown".
        aligned: whether every element is a function of one element of the layer's output, in the same order.
        gated: whether it was multiplied by another value.
        shifted: whether a number or data was added to it.
    """

    owner: Tensor
    function: str = "linear"
    aligned: bool = True
    gated: bool = False
    shifted: bool = False

    def applied(self, function: str) -> Place | None:
        """After one more elementwise function; None after a second activation."""
        return replace(self, function=function) if self.function in ("linear", "unknown") else None


def kind(node: Any) -> str:
    """The name of a node without "Backward" and its number."""
    return str(node.name()).rpartition("::")[2].partition("Backward")[0]


def graph_users(roots: Iterable[Any]) -> dict[Key, list[tuple[Any, int]]]:
    """Value -> the nodes that use it and as which input, of all nodes before the roots."""
    users: dict[Key, list[tuple[Any, int]]] = {}
    stack, seen = list(roots), set(roots)
    while stack and len(seen) < MOST_NODES:
        node = stack.pop()
        for slot, (source, number) in enumerate(node.next_functions):
            if source is None:
                continue
            users.setdefault((source, number), []).append((node, slot))
            if source not in seen:
                seen.add(source)
                stack.append(source)
    return users


def between(last: Any, first: Any) -> set[Any]:
    """The nodes from the node of one value back to that of another, which is excluded."""
    stack, seen = [last], {last}
    while stack and len(seen) < 1000:
        new = [source for source in children(stack.pop()) if source is not first and source not in seen]
        seen.update(new)
        stack += dict.fromkeys(new)
    return seen


def passed(node: Any, slot: int, place: Place, layers: Collection[Any] = ()) -> tuple[Key, Place] | None:
    """Positions of the units of a node's input in its output; None if they are mixed or cannot be followed.

    Args:
        layers: nodes of the outputs of layers.
    """
    shapes = node_shapes(node)
    if not shapes:
        return None
    name, owner = kind(node), place.owner
    moved: Place | None = None
    if name in _FUNCTIONS:
        moved = place.applied(_FUNCTIONS[name])
    elif name in _ELEMENTWISE:
        moved = place.applied("unknown")
    elif name in _ARITHMETIC:
        moved = _arithmetic(node, name, slot, place, layers)
    elif name in _SAME_AXES and slot == 0:
        moved = replace(place, aligned=place.aligned and name in ("Clone", "ToCopy", "Alias"))
    elif (rule := _MOVES.get(name)) is not None:
        found = rule(node, slot, owner, shapes[0])
        moved = None if found is None else replace(place, owner=found, aligned=False)
    elif name in _RESHAPES:
        found = _reshaped(owner, _input_shape(node), shapes[0])
        moved = None if found is None else replace(place, owner=found, aligned=False)
    if moved is None or not _fits(moved.owner, shapes[0]):
        return None
    return (node, 0), moved


def _fits(owner: Tensor, shape: tuple[int, ...]) -> bool:
    same = zip(owner.shape, shape, strict=False)
    return owner.ndim == len(shape) and all(mine in (1, there) for mine, there in same)


def _sources(node: Any) -> int:
    """Number of a node's inputs that are computed, not parameters, constants or data."""
    return sum(kind(source) != "AccumulateGrad" for source in children(node))


def _arithmetic(node: Any, name: str, slot: int, place: Place, layers: Collection[Any]) -> Place | None:
    shape = node_shapes(node)[0]
    owner = place.owner
    if owner.ndim < len(shape):
        owner = owner.reshape((1,) * (len(shape) - owner.ndim) + owner.shape)
    if _sources(node) == 1:
        data = name in ("Add", "Sub") and any(source is None for source, _ in node.next_functions)
        place = replace(place, owner=owner, shifted=place.shifted or data)
        return place if slot == 0 or name != "Div" else place.applied("unknown")
    # a gate: a product with itself (x * sigmoid(x)), or of an activation with something else
    others = [source for number, (source, _) in enumerate(node.next_functions) if number != slot]
    if all(_leads_to(source, {node.next_functions[slot][0]}, _OF_ELEMENTS) for source in others):
        return replace(place, owner=owner, function="unknown")
    gate = name == "Mul" and place.function != "linear"
    gate = gate and all(_leads_to(source, layers, _PLAIN_MOVES) for source in others)
    return replace(place, owner=owner, function="unknown", gated=True) if gate else None


def _leads_to(source: Any, ends: Collection[Any], through: Collection[str]) -> bool:
    """Whether a value comes from one of these nodes through nodes of these names only."""
    for _ in range(12):
        if source is None or source in ends:
            return source is not None
        if kind(source) not in through:
            return False
        source = next(iter(children(source)), None)
    return False


def _input_shape(node: Any) -> tuple[int, ...] | None:
    return next((node_shapes(source)[number] for source, number in node.next_functions[:1] if source), None)


def _reshaped(owner: Tensor, before: tuple[int, ...] | None, after: tuple[int, ...]) -> Tensor | None:
    """The owner after a view: expanded no further than the axes that the view changes."""
    if before is None or len(before) != owner.ndim or 0 in before:
        return None
    head = 0
    while head < min(len(before), len(after)) and before[head] == after[head] and owner.shape[head] == 1:
        head += 1
    tail = 0
    while tail < min(len(before), len(after)) - head and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    inner, outer = before[head : len(before) - tail], after[head : len(after) - tail]
    kept = owner.shape[owner.ndim - tail :]
    if all(size == 1 for size in owner.shape[head : owner.ndim - tail]):
        return owner.reshape((1,) * head + (1,) * len(outer) + kept)
    full = owner.expand((1,) * head + inner + kept)
    if full.numel() > LARGEST_OWNER:
        return None
    try:
        return squeezed(full.reshape((1,) * head + outer + kept))
    except RuntimeError as error:
        pass_on(error)
        return None


def squeezed(owner: Tensor) -> Tensor:
    """The owner with length 1 along every axis on which the unit does not depend."""
    for axis in range(owner.ndim):
        first = owner.narrow(axis, 0, 1)
        if owner.shape[axis] > 1 and bool((owner == first).all()):
            owner = first
    return owner


def _axis(dim: int, ndim: int) -> int:
    return dim % max(ndim, 1)


def _transposed(node: Any, slot: int, owner: Tensor, shape: tuple[int, ...]) -> Tensor:
    return owner.transpose(_axis(saved(node, "dim0"), owner.ndim), _axis(saved(node, "dim1"), owner.ndim))


def _permuted(node: Any, slot: int, owner: Tensor, shape: tuple[int, ...]) -> Tensor:
    return owner.permute([_axis(dim, owner.ndim) for dim in saved(node, "dims")])


def _selected(node: Any, slot: int, owner: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    axis = _axis(saved(node, "dim"), owner.ndim)
    return owner.squeeze(axis) if owner.shape[axis] == 1 else None


def _averaged(node: Any, slot: int, owner: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    axes = sorted((_axis(dim, owner.ndim) for dim in saved(node, "dim") or ()), reverse=True)
    if not axes or any(owner.shape[axis] != 1 for axis in axes):
        return None
    if not saved(node, "keepdim"):
        for axis in axes:
            owner = owner.squeeze(axis)
    return owner


def _joined(node: Any, slot: int, owner: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    axis = _axis(saved(node, "dim"), owner.ndim)
    if owner.shape[axis] == 1 and shape[axis] > 1 and owner.numel() > 1:
        return owner  # units lie along another axis
    sizes = [node_shapes(source)[number][axis] if source else 0 for source, number in node.next_functions]
    if (missing := sum(source is None for source, _ in node.next_functions)) == 1:
        sizes[sizes.index(0)] = shape[axis] - sum(sizes)  # data, which has no node
    if sum(sizes) != shape[axis] or missing > 1:
        return None
    spread = list(owner.shape)
    spread[axis] = shape[axis]
    full = owner.new_full(spread, -1)
    full.narrow(axis, sum(sizes[:slot]), sizes[slot]).copy_(owner)
    return full


def _attended(node: Any, slot: int, owner: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Values keep their units in attention, for any weights of positions."""
    return owner if slot == 2 and owner.ndim >= 2 and owner.shape[-2] == 1 else None


def _weighted(node: Any, slot: int, owner: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    return owner if slot == 1 and owner.ndim == 3 and owner.shape[-2] == 1 else None


_MOVES: dict[str, Callable[[Any, int, Tensor, tuple[int, ...]], Tensor | None]] = {
    "Transpose": _transposed,
    "Permute": _permuted,
    "Select": _selected,
    "Mean": _averaged,
    "Sum": _averaged,
    "Cat": _joined,
    "ScaledDotProductFlashAttentionForCpu": _attended,
    "ScaledDotProductFlashAttention": _attended,
    "ScaledDotProductEfficientAttention": _attended,
    "ScaledDotProductCudnnAttention": _attended,
    "ScaledDotProductFusedAttentionOverrideable": _attended,
    "Bmm": _weighted,
}


def unit_owner(width: int, ndim: int, axis: int) -> Tensor:
    """The owner of a value whose features along `axis` (from the end) are the units in order."""
    shape = [1] * ndim
    shape[axis] = width
    return torch.arange(width).reshape(shape)
