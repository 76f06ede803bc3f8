"""Two networks that differ by the order of their units compute the same: finding the order that brings them closest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from homeostat.core.errors import BadInput
from homeostat.core.units import Axis, UnitGroup

Orders = dict[str, Tensor]
"""layer -> order of its units: unit i of the permuted network is unit order[i] of the given one, int64 [H]."""


def permuted(
    parameters: Mapping[str, Tensor], groups: Iterable[UnitGroup], orders: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The same function with the units of some layers in another order: rows, columns and what norms keep of a unit.

    Args:
        parameters: name -> value of every parameter, and of the buffers that norms keep per unit where there are any.
        groups: unit groups of the network. Units must be exchangeable: those of attention values are only within a
            head, and those before a GroupNorm only within its groups, so leave such groups out.
        orders: layer -> order; layers without one stay.

    Raises:
        BadInput: an order is no permutation, or the units lie where they cannot be exchanged (grouped convolutions).
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
    """The orders of the units of `other` that bring it close to `own`, layer after layer until nothing improves.

    Each layer's order maximises sum <own, permuted other> over all its rows, columns and norms given the orders of the
    other layers, a linear assignment; so the distance never grows. With one hidden layer it is the global optimum.

    Args:
        own, other: name -> value of every parameter (solo).
        groups: unit groups of the network; see `permuted` about which.
        rounds: passes over the layers at most.

    Returns:
        Layer -> order for `permuted(other, groups, orders)`.

    Raises:
        BadInput: scipy is not installed, a weight is not finite, or the units cannot be exchanged (those of recurrent
            layers meet themselves in one matrix, which is no linear assignment).

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
        own, other: layer -> activations [N, H]. A unit that is constant correlates with none.

    Raises:
        BadInput: scipy is not installed, or an activation is not finite.

    Source: Li et al. (2016), arXiv:1511.07543: bipartite matching by correlation.
    """
    return {layer: assigned(_correlation(h.double(), other[layer].double()), layer) for layer, h in own.items()}


def assigned(gain: Tensor, layer: str) -> Tensor:
    """Row -> column [H], each used once, with the largest sum of gain [H, H].

    Raises:
        BadInput: scipy is not installed, or a gain is not finite.
    """
    try:
        from scipy.optimize import linear_sum_assignment
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
    """Give one layer its best order; whether that is better than what it had."""
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
    """What each unit has of a parameter, [H, numbers per unit]."""
    rows = value.detach().double().cpu().movedim(axis.dim, 0)
    return rows[_places(axis, group.layer, group.width).flatten()].reshape(group.width, -1)


def _axes(group: UnitGroup) -> tuple[Axis, ...]:
    return (*group.rows, *group.carriers, *group.buffers, *group.columns)


def _indices(axis: Axis, order: Tensor, layer: str) -> Tensor:
    """Index along the axis after permuting the units; what no unit owns stays."""
    places = _places(axis, layer, order.numel())
    found = torch.arange(axis.owner.numel())
    found[places.flatten()] = places[order.cpu()].flatten()
    return found.to(axis.owner.device)


def _places(axis: Axis, layer: str, width: int) -> Tensor:
    """Where each unit lies along the axis, in order: [H, places per unit]."""
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
