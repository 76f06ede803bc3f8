"""Finds in the autograd graph of a loss the frozen parameters between trained layers. The graph is not changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from homeostat.shell.hooks.graph_values import children
from homeostat.shell.hooks.layer_order import in_order, parameter_id
from homeostat.shell.hooks.torch_internals import is_plain, saved

_OPERANDS = ("mat2", "mat1", "weight", "self", "other", *(f"weight{n}" for n in range(2)))
"""Names under which nodes keep a weight: products, convolutions, norms, recurrent layers."""


def frozen_between(loss: Tensor, trained: Collection[int], frozen: Mapping[int, str]) -> set[str]:
    """The frozen parameters that gradients of trained layers pass, behind which further layers are trained.

    A gradient that passes a layer needs its weight, so the graph keeps it.

    Args:
        trained: ids of the parameters in optimizers.
        frozen: address of a parameter that needs no gradient -> its name.
    """
    order = in_order(loss.grad_fn)
    operands = {node: children(node) for node in order}
    own = {node: any(parameter_id(child) in trained for child in operands[node]) for node in order}
    above, below = dict.fromkeys(order, False), dict[Any, bool]()
    for node in order:
        for child in operands[node]:
            above[child] = above[child] or above[node] or own[node]
    for node in reversed(order):
        below[node] = own[node] or any(below[child] for child in operands[node])
    return {name for node in order if above[node] and below[node] for name in _kept(node, frozen)}


def _kept(node: Any, frozen: Mapping[int, str]) -> set[str]:
    """The frozen parameters that a node keeps."""
    found = set[str]()
    for key in _OPERANDS:
        value = saved(node, key)
        for tensor in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(tensor, Tensor) and is_plain(tensor):
                name = frozen.get(tensor.data_ptr()) or frozen.get(tensor.untyped_storage().data_ptr())
                found |= {name} if name else set()
    return found
