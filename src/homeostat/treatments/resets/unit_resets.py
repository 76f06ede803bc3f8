"""The edits that reset units, shared by all treatments that reset units.

A reset unit gets fresh incoming weights and zero outgoing weights, so the network's function loses exactly the unit's
contribution. Its optimizer moments and its normalisation state are reset too. A unit of several rows (gate and value of
a gated layer, the gates of a recurrent one) gets fresh weights in all of them.

If a norm computes its statistics over several units (`UnitGroup.mixers`: LayerNorm, GroupNorm, RMSNorm), the fresh unit
changes these statistics and so the outputs of the layer's other units. Then resetting a dead unit does change the
output. Batch norm in training mode has no such effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from homeostat.core.edits import AddValues, ClearMoments, Edit, SetBuffer, SetValues
from homeostat.core.errors import Refused
from homeostat.core.random import Draw
from homeostat.core.treatment import View
from homeostat.core.units import Axis, UnitGroup
from homeostat.treatments.shapes import lead


def treatable(component: str, view: View, linear: bool = False) -> tuple[UnitGroup, ...]:
    """The unit groups whose incoming and outgoing weights are all trainable and have a known initial distribution.

    Args:
        linear: also units without a nonlinearity (attention values, LoRA ranks). The papers do not define their
            utility or dormancy: any other basis of such units computes the same function.

    Raises:
        Refused: there is none.
    """
    if not view.units:
        raise Refused(component, "the network", "no unit groups were found in it, so there is no unit to reset")
    candidates = tuple(g for g in view.units if linear or g.nonlinearity != "linear")
    if not candidates:
        names = ", ".join(g.layer for g in view.units)
        raise Refused(component, names, "they have no nonlinearity; the option linear=True resets their units too")
    groups = tuple(g for g in candidates if g.rows and g.columns and _open(g, view))
    if not groups:
        names = ", ".join(g.layer for g in view.units)
        raise Refused(component, names, "their weights are frozen or have no known initial distribution")
    return groups


def _open(group: UnitGroup, view: View) -> bool:
    trainable = all(axis.name in view.parameters for axis in (*group.rows, *group.columns))
    return trainable and group.weight.name in view.fresh


def touched(chosen: Mapping[UnitGroup, Tensor]) -> dict[UnitGroup, Tensor]:
    """The groups in which a unit is chosen, in any replica.

    Most steps reset nothing. One read by the host then saves drawing fresh weights, the largest cost of a step's plan.
    """
    hit = torch.stack([mask.any() for mask in chosen.values()]) if chosen else ()
    return {group: mask for (group, mask), yes in zip(chosen.items(), hit, strict=True) if yes}


def reset_edits(
    view: View, chosen: Mapping[UnitGroup, Tensor], means: Mapping[UnitGroup, Tensor] | None = None
) -> list[Edit]:
    """Edits that reset the chosen units of every group at once.

    The order matters if two groups share a weight (the columns of one are the rows of the next): first the folds, then
    the rows of every group, then the columns of every group. So the outgoing weights of a reset unit are always zero.

    Args:
        chosen: group -> units to reset, bool [*R, H].
        means: group -> mean activation [*R, H] that is added to the consumers' biases, through their weights; None:
            nothing is added.

    Of a stack, only the replicas in which a unit is chosen are drawn for and edited.
    """
    if lead(view):
        return _of_some_replicas(view, chosen, means)
    return _reset_edits(view, chosen, means)


def _of_some_replicas(
    view: View, chosen: Mapping[UnitGroup, Tensor], means: Mapping[UnitGroup, Tensor] | None
) -> list[Edit]:
    """`reset_edits` for the replicas [R] in which a unit is chosen."""
    if not chosen:
        return []
    hit = torch.stack([mask.any(-1) for mask in chosen.values()]).any(0)
    replicas = [r for r, yes in enumerate(hit) if bool(yes)]
    seeds = view.draw.seed
    if not replicas or isinstance(seeds, int):
        return []

    def part(tensor: Tensor) -> Tensor:
        return tensor[replicas[0] : replicas[0] + 1] if len(replicas) == 1 else tensor[replicas]

    groups = chosen.keys()
    biases = [name for group in groups for name in group.consumer_biases if name is not None]
    names = [axis.name for g in groups for axis in (*g.rows, *g.columns, *g.carriers, *g.buffers)] + biases
    some = replace(
        view,
        parameters={n: part(view.parameters[n]) for n in names if n in view.parameters},
        buffers={n: part(view.buffers[n]) for n in names if n in view.buffers},
        draw=Draw([seeds[r] for r in replicas], view.draw.path),
    )
    masks = {group: part(mask) for group, mask in chosen.items()}
    edits = _reset_edits(some, masks, None if means is None else {g: part(means[g]) for g in groups})
    return [_for_replicas(edit, tuple(replicas)) for edit in edits]


def _for_replicas(edit: Edit, replicas: tuple[int, ...]) -> Edit:
    if isinstance(edit, (SetValues, AddValues, SetBuffer, ClearMoments)):
        return replace(edit, replicas=replicas)
    return edit


def _reset_edits(
    view: View, chosen: Mapping[UnitGroup, Tensor], means: Mapping[UnitGroup, Tensor] | None
) -> list[Edit]:
    edits: list[Edit] = []
    for group, mask in chosen.items():
        if means is not None:
            edits += _fold(view, group, torch.where(mask, means[group], 0.0))
    for group, mask in chosen.items():
        edits += _renew(view, group, mask)
    for group, mask in chosen.items():
        for axis in group.columns:
            edits += _set(view, axis, mask, torch.zeros_like(view.parameters[axis.name]))
    return edits


def _set(view: View, axis: Axis, mask: Tensor, value: Tensor, units: Tensor | None = None) -> list[Edit]:
    where = axis.spread(mask, view.parameters[axis.name].ndim - lead(view))
    return [SetValues(axis.name, value, where, units), ClearMoments(axis.name, where)]


def _renew(view: View, group: UnitGroup, mask: Tensor) -> list[Edit]:
    edits: list[Edit] = []
    for axis in group.rows:
        value = view.parameters[axis.name]
        fresh = _fresh(view, axis.name) if value.ndim - lead(view) >= 2 else torch.zeros_like(value)
        edits += _set(view, axis, mask, fresh, mask.sum() if axis is group.weight else None)
    for axis in group.carriers:
        if axis.name in view.parameters:
            known = view.fresh.get(axis.name)
            # a norm that multiplies by (1 + weight) and the slope of a PReLU do not start at 1
            start = known.mean if known is not None and known.kind == "constant" else float("weight" in axis.name)
            edits += _set(view, axis, mask, torch.full_like(view.parameters[axis.name], start))
    for axis in group.buffers:
        if axis.name in view.buffers:
            buffer = view.buffers[axis.name]
            start = 1.0 if axis.name.endswith("running_var") else 0.0
            where = axis.spread(mask, buffer.ndim - lead(view))
            edits.append(SetBuffer(axis.name, torch.full_like(buffer, start), where))
    return edits


def _fresh(view: View, name: str) -> Tensor:
    return view.fresh[name].sample(view.draw, name, view.parameters[name])


def _fold(view: View, group: UnitGroup, mean: Tensor) -> list[Edit]:
    """Add each consumer's response to the units' mean activation to its bias, which keeps the mean output."""
    edits: list[Edit] = []
    for axis, bias in zip(group.columns, group.consumer_biases, strict=False):
        if bias is None or bias not in view.parameters or axis.dim != 1:
            continue
        weight = view.parameters[axis.name]
        ndim = weight.ndim - lead(view)
        response = weight * axis.spread(mean, ndim).to(weight.dtype)
        edits.append(AddValues(bias, response.flatten(lead(view) + 1).sum(-1), averaged=True))
    return edits


def kept(edits: Sequence[Edit], after: View) -> str | None:
    """Check that `after` has every value that the edits set; None if so. The last edit of an element counts."""
    covered: dict[str, Tensor] = {}
    for edit in reversed(edits):
        if not isinstance(edit, SetValues):
            continue
        now = after.parameters[edit.target]
        mask = torch.ones_like(now, dtype=torch.bool) if edit.mask is None else edit.mask.expand_as(now)
        done = covered.get(edit.target, torch.zeros_like(mask))
        wrong = mask & ~done & (now != edit.value.expand_as(now))
        if bool(wrong.any()):
            return f"{int(wrong.sum())} values of {edit.target} are not what the reset set them to"
        covered[edit.target] = done | mask
    return None
