"""Nodes of an autograd graph: their operands, shapes, and values as far as these are kept. The graph is only read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from homeostat.shell.hooks.torch_internals import node_shapes, saved

SAME = (
    "ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "CloneBackward0", "ToCopyBackward0",
    "SqueezeBackward0", "SqueezeBackward1", "UnsqueezeBackward0", "ExpandBackward0", "AliasBackward0",
)  # fmt: skip
"""Operations that leave the values, and the order of the dimensions, as they are."""
_RESHAPED = (
    "ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "CloneBackward0", "AliasBackward0",
    "SqueezeBackward0", "SqueezeBackward1", "UnsqueezeBackward0",
)  # fmt: skip
MOST_NODES = 5000
"""Number of nodes of the graph of a loss that are read, about."""
LARGEST = 1 << 22
"""Multiplications that are done again to know a value that the graph does not keep."""


def operand(node: Any, index: int = 0) -> Any:
    """The node of an operand; None when it needs no gradient."""
    functions = node.next_functions
    return functions[index][0] if index < len(functions) else None


def output_shape(node: Any) -> tuple[int, ...] | None:
    """The shape that a node's operation gave, None when unknown."""
    shapes = node_shapes(node)
    return shapes[0] if shapes else None


def through(node: Any, names: Iterable[str] = SAME) -> Any:
    """The first node that is not of these operations."""
    while node is not None and node.name() in names:
        node = operand(node)
    return node


def children(node: Any) -> list[Any]:
    """The nodes of the operands that need a gradient."""
    return [child for child, _ in node.next_functions if child is not None]


def walk(node: Any, depth: float = math.inf, most: float = MOST_NODES) -> Iterator[tuple[Any, int]]:
    """A node and those below it with their distance, nearest first.

    Args:
        node: where to start; None gives nothing.
        depth: distance at which to stop.
        most: number of nodes after which to stop, at the next distance.
    """
    layer, distance = [node] if node is not None else [], 0
    seen = set(layer)
    while layer and distance < depth and len(seen) <= most:
        following = list[Any]()
        for one in layer:
            yield one, distance
            new = [child for child in dict.fromkeys(children(one)) if child not in seen]
            seen.update(new)
            following += new
        layer, distance = following, distance + 1


def below(node: Any, depth: float) -> Iterator[Any]:
    """A node and those up to `depth - 1` operations below it, nearest first."""
    return (one for one, _ in walk(node, depth, math.inf))


def constant_factor(node: Any) -> Tensor | None:
    """The factor (or divisor) without a gradient of a product; None where there is none."""
    children = [child for child, _ in node.next_functions[:2]]
    if node.name() not in ("MulBackward0", "DivBackward0") or children.count(None) != 1:
        return None
    factor = saved(node, "other" if children[0] is not None else "self")
    return factor.detach() if isinstance(factor, Tensor) and factor.is_floating_point() and factor.numel() else None


def value_of(node: Any) -> Tensor | None:
    """The value that an operation gave, as far as it is kept, or follows from what is kept by little work."""
    if node is None:
        return None
    name, shape = node.name(), output_shape(node)
    if name in _RESHAPED:
        value = value_of(operand(node))
        return None if value is None or shape is None else value.reshape(shape)
    if name in ("GatherBackward0", "IndexBackward0"):
        return _chosen(node)
    if name in ("AddmmBackward0", "MmBackward0"):
        return _affine(node)
    for kept in ("result", "output"):
        if isinstance(value := saved(node, kept), Tensor):
            return value.detach()
    return None


def _chosen(node: Any) -> Tensor | None:
    if node.name() == "GatherBackward0":
        values, dim, index = (saved(node, key) for key in ("self", "dim", "index"))
        if not isinstance(values, Tensor):
            values = value_of(operand(node))
        if not isinstance(values, Tensor) or not isinstance(dim, int) or not isinstance(index, Tensor):
            return None
        return values.detach().gather(dim, index)
    values, indices = value_of(operand(node)), saved(node, "indices")
    if values is None or not isinstance(indices, tuple) or not all(isinstance(i, Tensor) for i in indices):
        return None
    return values[indices]


def _affine(node: Any) -> Tensor | None:
    """bias + x @ weight, or x @ weight"""
    biased = node.name() == "AddmmBackward0"
    inputs, weight = saved(node, "mat1" if biased else "self"), saved(node, "mat2")
    bias, source = getattr(operand(node), "variable", None) if biased else None, operand(node, 2 if biased else 1)
    if not isinstance(weight, Tensor) and source is not None:
        weight = getattr(through(source, (*SAME, "TBackward0")), "variable", None)
        weight = weight.t() if isinstance(weight, Tensor) else None
    if not isinstance(inputs, Tensor) or not isinstance(weight, Tensor) or (biased and not isinstance(bias, Tensor)):
        return None
    if inputs.shape[-1] != len(weight) or inputs.numel() * weight.shape[-1] > LARGEST:
        return None
    product = inputs.detach() @ weight.detach()
    return product + bias.detach() if isinstance(bias, Tensor) else product
