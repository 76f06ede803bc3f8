"""Finds the permutation of units that brings two networks closest. Permuted networks compute the same function."""

# Torch's stubs leave `Tensor.norm`, and scipy has none of its own, untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from homeostat.core.errors import BadInput
from homeostat.core.units import Axis, UnitGroup

Orders = dict[str, Tensor]
"""Layer -> order of its units, int64 [H]: unit i of the permuted network is unit order[i] of the given network."""


def permuted(
    parameters: Mapping[str, Tensor], groups: Iterable[UnitGroup], orders: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The same function with permuted units: permutes rows, columns and the entries of norms.

    Args:
        parameters: name -> value of every parameter, and of the per-unit buffers of norms, if any.
        groups: unit groups of the network. Their units must be exchangeable. Leave out attention values, which are
            exchangeable only within a head, and units before a GroupNorm, exchangeable only within its groups.
        orders: layer -> order; layers without one are not changed.

    Raises:
        BadInput: an order is not a permutation, or the units cannot be exchanged (grouped convolutions).
    """
    found = dict(parameters)
    for group in groups:
        order = orders.get(group.layer)
        if order is None:
            continue
        if not torch.equal(order.sort().values.cpu(), torch.arange(group.width)):
            raise BadInput(f"the order of {group.layer} is no permutation of its {group.width} units")
        for axis in _axes(group):
            if axis.name in found:
                found[axis.name] = found[axis.name].index_select(axis.dim, _indices(axis, order, group.layer))
    return found


def match_weights(
    own: Mapping[str, Tensor], other: Mapping[str, Tensor], groups: Sequence[UnitGroup], rounds: int = 100
) -> Orders:
    """The orders of the units of `other` that bring it close to `own`. Optimises layer by layer until nothing improves.

    Each layer's order maximises the sum of <own, permuted other> over its rows, columns and norms, given the orders of
    the other layers. This is a linear assignment, so the distance never grows. With one hidden layer the result is the
    global optimum.

    Args:
        own, other: name -> value of every parameter (solo).
        groups: unit groups of the network; see `permuted` about which.
        rounds: largest number of passes over the layers.

    Returns:
        Layer -> order for `permuted(other, groups, orders)`.

    Raises:
        BadInput: scipy is not installed, a weight is not finite, or the units cannot be exchanged (for the
            hidden-to-hidden matrix of a recurrent layer the problem is not a linear assignment).

    Source: Ainsworth, Hayase and Srinivasa (2023), arXiv:2209.04836, algorithm 1.
    """
    for group in groups:
        names = [axis.name for axis in (*group.rows, *group.carriers, *group.columns)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise BadInput(f"the units of {group.layer} cannot be matched: they make and use {twice[0]}")
    orders = {group.layer: torch.arange(group.width) for group in groups}
    for _ in range(rounds):
        gained = [_improve(own, other, groups, orders, group) for group in groups]
        if not any(gained):
            break
    return orders


def match_activations(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Orders:
    """The orders of the units of `other` whose activations correlate most with those of `own` on the same items.

    Args:
        own, other: layer -> activations [N, H]. A constant unit has correlation 0 with all others.

    Raises:
        BadInput: scipy is not installed, or an activation is not finite.

    Source: Li et al. (2016), arXiv:1511.07543: bipartite matching by correlation.
    """
    return {layer: assigned(_correlation(h.double(), other[layer].double()), layer) for layer, h in own.items()}


def assigned(gain: Tensor, layer: str) -> Tensor:
    """The assignment row -> column [H] with the largest sum of gain [H, H].

    Raises:
        BadInput: scipy is not installed, or a gain is not finite.
    """
    try:
        from scipy.optimize import linear_sum_assignment  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise BadInput("matching units needs scipy: pip install 'homeostat[studies]'") from error
    if not bool(gain.isfinite().all()):
        raise BadInput(f"the units of {layer} cannot be matched: a value is not finite")
    return torch.from_numpy(linear_sum_assignment(gain.cpu().numpy(), maximize=True)[1])


def _improve(
    own: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    groups: Sequence[UnitGroup],
    orders: Orders,
    group: UnitGroup,
) -> bool:
    """Set the best order of one layer. Return whether it improves."""
    rest = permuted(other, groups, {layer: order for layer, order in orders.items() if layer != group.layer})
    gain = torch.zeros(group.width, group.width, dtype=torch.float64)
    for axis in (*group.rows, *group.carriers, *group.columns):
        if axis.name in own:
            gain += _by_unit(own[axis.name], axis, group) @ _by_unit(rest[axis.name], axis, group).T
    order = assigned(gain, group.layer)
    units = torch.arange(group.width)
    better = float(gain[units, order].sum() - gain[units, orders[group.layer]].sum()) > 1e-12 * float(gain.abs().sum())
    if better:
        orders[group.layer] = order
    return better


def _by_unit(value: Tensor, axis: Axis, group: UnitGroup) -> Tensor:
    """The entries of a parameter that belong to each unit, [H, entries per unit]."""
    rows = value.detach().double().cpu().movedim(axis.dim, 0)
    return rows[_places(axis, group.layer, group.width).flatten()].reshape(group.width, -1)


def _axes(group: UnitGroup) -> tuple[Axis, ...]:
    return (*group.rows, *group.carriers, *group.buffers, *group.columns)


def _indices(axis: Axis, order: Tensor, layer: str) -> Tensor:
    """Index along the axis after permuting the units; entries of no unit keep their place."""
    places = _places(axis, layer, order.numel())
    found = torch.arange(axis.owner.numel())
    found[places.flatten()] = places[order.cpu()].flatten()
    return found.to(axis.owner.device)


def _places(axis: Axis, layer: str, width: int) -> Tensor:
    """Positions of each unit along the axis: [H, positions per unit]."""
    owner = axis.owner.cpu()
    owned = int((owner >= 0).sum())
    counts = torch.bincount(owner[owner >= 0], minlength=width)
    if axis.groups > 1 or bool((counts != owned // max(width, 1)).any()):
        raise BadInput(f"the units of {layer} cannot be exchanged: they lie in different ways in {axis.name}")
    return owner.argsort(stable=True)[owner.numel() - owned :].reshape(width, -1)


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    x, y = (h - h.mean(0) for h in (x, y))
    norms = x.norm(dim=0)[:, None] * y.norm(dim=0)
    return torch.where(norms > 0, x.T @ y / norms, 0.0)
