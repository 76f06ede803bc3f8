"""Reads from the autograd graph which layers lie between a layer and the loss. The graph is not changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from homeostat.shell.hooks.graph_values import children

MOST_NODES = 20_000
"""Graphs with more nodes are not read."""
_MOVES = ("TBackward0", "TransposeBackward0", "ViewBackward0", "ToCopyBackward0", "PermuteBackward0")
"""Operations on a weight before it is used."""


def layers_after(loss: Tensor, layers: Mapping[int, str]) -> dict[str, frozenset[str]]:
    """Layer -> the layers that its gradient passes, for the layers on which the loss depends.

    Args:
        layers: id of a parameter -> its layer.
    """
    order = in_order(loss.grad_fn)
    passed: dict[Any, frozenset[str]] = {node: frozenset() for node in order}
    after: dict[str, frozenset[str]] = {}
    for node in order:
        below = children(node)
        own = {layer for child in below if (layer := layers.get(parameter_id(child))) is not None}
        for layer in own:
            after[layer] = after.get(layer, frozenset()) | passed[node]
        reached = passed[node] | own
        for child in below:
            passed[child] = reached if not passed[child] else passed[child] | reached
    return {layer: others - {layer} for layer, others in after.items()}


def in_order(root: Any) -> list[Any]:
    """The nodes in topological order, users first; empty if the graph is too large."""
    users: dict[Any, int] = {root: 0}
    waiting = [root] if root is not None else []
    for node in waiting:
        for child in children(node):
            if child not in users:
                users[child] = 0
                waiting.append(child)
            users[child] += 1
        if len(waiting) > MOST_NODES:
            return []
    ready, order = waiting[:1], list[Any]()
    while ready:
        node = ready.pop()
        order.append(node)
        for child in children(node):
            users[child] -= 1
            if not users[child]:
                ready.append(child)
    return order


def parameter_id(node: Any) -> int:
    """id of the parameter of a node, also if it is cast or moved; 0 for other nodes."""
    while node is not None and node.name() in _MOVES:
        node = node.next_functions[0][0]
    return id(getattr(node, "variable", None))
