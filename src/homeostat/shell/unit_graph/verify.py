"""Check guesses about units: by exact passes of the pinned copy, then once more by redrawing units in a plain copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from homeostat.core.random import Draw
from homeostat.core.units import Axis, UnitGroup
from homeostat.shell.hooks.module_tree import named_parameters_in
from homeostat.shell.hooks.random_streams import reseed
from homeostat.shell.unit_graph.dependencies import Flow, bits_of, changes, differs, read_at
from homeostat.shell.unit_graph.functional_calls import Call, Calls, NormCall
from homeostat.shell.unit_graph.module_roles import Role, module_roles, tensors_in
from homeostat.shell.unit_graph.pinned_model import NARROW, RETURN, WIDE, Palette, PinnedCopy, Spot
from homeostat.shell.unit_graph.sandbox import map_tensors, private_copy

REDRAWN = 4
"""Random units of each group that the last check redraws."""


@dataclass
class Guess:
    """A candidate group: units of several rows, or of one row that others only weight.

    Args:
        sources: paths of the layers, the first names the group.
        members: unit of the group -> its global unit numbers, one column per row [H, rows].
        owner: spot -> the unit of the group to which each feature belongs, or -1.
        summed: number of rows that are summed where the units are used; 0 means all.
    """

    sources: tuple[str, ...]
    members: Tensor
    owner: dict[Spot, Tensor] = field(default_factory=dict)
    summed: int = 0

    @property
    def width(self) -> int:
        """Number of units."""
        return len(self.members)

    def mask(self, total: int, units: Tensor | None = None) -> Tensor:
        """Global unit numbers of some units of the group (or all) as a mask [total]."""
        mask = torch.zeros(total, dtype=torch.bool)
        mask[(self.members if units is None else self.members[units]).flatten()] = True
        return mask


def uses(pins: PinnedCopy, spot: Spot) -> bool:
    """Whether the columns of a layer use the units there. A norm only carries them."""
    return pins.parts.parts[spot.path].layout is not None


def verified(pins: PinnedCopy, flow: Flow, found: list[Guess], reasons: dict[str, str]) -> list[Guess]:
    """The guesses that hold in exact passes. No two of them use the same feature."""
    kept: list[Guess] = []
    together = _violated(pins, found) if found else False
    for guess in sorted(found, key=lambda g: -sum(bool((o >= 0).any()) for o in g.owner.values())):
        mixed = together and _violated(pins, [guess])
        why = "its units are mixed with each other or with others" if mixed else ""
        why = why or _in_turn(pins, guess) or _overlapping(guess, kept, pins) or _added_to(pins, flow, guess)
        if why:
            reasons.update(dict.fromkeys(guess.sources, why))
        else:
            kept.append(guess)
    return kept


def _violated(pins: PinnedCopy, found: list[Guess]) -> bool:
    """Whether a change of units affects features that do not belong to them."""
    starts = [sum(g.width for g in found[:i]) for i in range(len(found))]
    total = sum(g.width for g in found)
    numbers = torch.arange(total)
    generator = torch.Generator().manual_seed(0)
    chosen = [(NARROW, word) for bit in range(bits_of(total)) for word in _both((numbers >> bit & 1).bool())]
    chosen += [(WIDE, word) for _ in range(2) for word in _both(torch.rand(total, generator=generator) < 0.5)]
    read = set(read_at(pins))
    bases = {palette: pins.run(palette) for palette in (NARROW, WIDE)}
    return any(_is_wrong(pins, found, starts, palette, word, bases[palette], read) for palette, word in chosen)


def _both(word: Tensor) -> tuple[Tensor, Tensor]:
    return word, ~word


def _is_wrong(
    pins: PinnedCopy,
    found: list[Guess],
    starts: list[int],
    palette: Palette,
    word: Tensor,
    base: dict[Spot, Tensor],
    read: set[Spot],
) -> bool:
    on = [word[start : start + guess.width] for start, guess in zip(starts, found, strict=True)]
    mask = torch.zeros(pins.total, dtype=torch.bool)
    for guess, units in zip(found, on, strict=True):
        mask |= guess.mask(pins.total, units)
    for spot, changed in changes(pins.run(palette, mask), base).items():
        part = pins.parts.parts.get(spot.path)
        if spot not in read:
            if spot.path == RETURN or (part is not None and part.role in (Role.OPAQUE, Role.RECURRENT)):
                return True  # it is used in an unknown way: by an opaque module, or as an initial state
            continue
        allowed = torch.zeros_like(changed)
        for guess, units in zip(found, on, strict=True):
            owner = guess.owner.get(spot)
            if owner is not None:
                allowed |= units[owner.clamp(min=0)] & (owner >= 0)
        if bool((changed & ~allowed).any()):
            return True
    return False


def _in_turn(pins: PinnedCopy, guess: Guess) -> str:
    """The reason why rows are not one unit: they affect different positions of one feature. "" if they are one."""
    shown = []
    for row in guess.members.T if guess.members.shape[1] > 1 else ():
        mask = torch.zeros(pins.total, dtype=torch.bool)
        mask[row] = True
        shown.append(pins.run(NARROW, mask))
    for spot in [spot for spot in guess.owner if shown and uses(pins, spot)]:
        elements = [differs(one[spot], pins.base[spot]) for one in shown]
        if not all(torch.equal(one, elements[0]) for one in elements):
            return f"several of its units use the same columns of {pins.parts.parts[spot.path].label} in turn"
    return ""


def _overlapping(guess: Guess, kept: list[Guess], pins: PinnedCopy) -> str:
    for other in kept:
        for spot, owner in guess.owner.items():
            if spot in other.owner and bool(((owner >= 0) & (other.owner[spot] >= 0)).any()):
                names = ", ".join(pins.parts.parts[s].label for s in other.sources)
                return f"its units only scale those of {names}, which are paired instead"
    return ""


def _added_to(pins: PinnedCopy, flow: Flow, guess: Guess) -> str:
    """What is added to the units, i.e. what affects their features while they are all zero. "" if nothing."""
    features = {spot: owner >= 0 for spot, owner in guess.owner.items()}
    spot = added(pins, flow, set(guess.sources), guess.mask(pins.total), features)
    if spot is None:
        return ""
    others = [n for n in flow.sources_at(spot) if n not in guess.sources]
    labels = [pins.parts.parts[n].label if n in pins.parts.parts else n for n in others]
    return combined(pins.parts.parts[spot.path].label, labels)


def added(pins: PinnedCopy, flow: Flow, sources: set[str], silent: Tensor, features: dict[Spot, Tensor]) -> Spot | None:
    """A spot at which something affects the features while the units of `sources` in `silent` are zero."""
    if all(set(flow.sources_at(spot)) <= sources for spot in features):
        return None
    for palette in (NARROW, WIDE):
        base = pins.run(palette, silent=silent)
        now = changes(pins.run(palette, ~silent, silent=silent), base)
        for spot, mine in features.items():
            if spot in now and bool((now[spot] & mine).any()):
                return spot
    return None


def combined(where: str, names: list[str]) -> str:
    """The reason for units to which others are added."""
    listed = ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
    return f"before {where} its units are combined with {listed} (residual sum, gate or attention)"


def failing_layers(
    model: nn.Module,
    groups: Sequence[UnitGroup],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    training: bool = False,
) -> set[str]:
    """Layers whose groups are wrong: redrawing the rows of units without outgoing columns changed the output.

    Norms that mix units (layer, group, RMS norm) are bypassed, because through them a unit changes the others by
    design.

    Args:
        training: run in training mode without dropout, as the network was traced.
    """
    trial = _Trial(private_copy(model, training), args, kwargs)
    if not groups or trial.holds(groups):
        return set()
    return {group.layer for group in groups if not trial.holds([group])}


class _Trial:
    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.model, self.args, self.kwargs = model, args, kwargs
        for part in module_roles(self.model).of(Role.NORM):
            if part.mixes:
                part.module.forward = lambda *args, **kwargs: tensors_in((args, kwargs))[0]
        self.parameters: dict[str, nn.Parameter] = dict(named_parameters_in(self.model))

    def holds(self, groups: Sequence[UnitGroup]) -> bool:
        saved = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        draw = Draw(0, ("verify",))
        chosen = {g.layer: draw.uniform(g.layer, torch.empty(g.width)).argsort()[:REDRAWN] for g in groups}
        for group in groups:
            for axis in group.columns:
                self._fill(axis, group.width, chosen[group.layer], None)
        before = self._outputs()
        for group in groups:
            for axis in group.rows:
                self._fill(axis, group.width, chosen[group.layer], draw.at(axis.name))
        after = self._outputs()
        for name, parameter in self.parameters.items():
            parameter.data.copy_(saved[name])
        return all(
            torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True) for a, b in zip(before, after, strict=True)
        )

    def _fill(self, axis: Axis, width: int, units: Tensor, draw: Draw | None) -> None:
        parameter = self.parameters[axis.name]
        chosen = torch.zeros(width, dtype=torch.bool, device=parameter.device)
        chosen[units] = True
        where = axis.spread(chosen, parameter.ndim, fill=False)
        value = torch.zeros_like(parameter) if draw is None else draw.normal("row", parameter)
        parameter.data.copy_(torch.where(where, value, parameter.data))

    def _outputs(self) -> list[Tensor]:
        reseed()
        args, kwargs = map_tensors(torch.clone, (self.args, self.kwargs))
        with Calls(self.parameters, _without_norms):
            result = self.model(*args, **kwargs)
        return [tensor.double() for tensor in tensors_in(result)]


def _without_norms(call: Call, compute: Callable[[], Any]) -> Any:
    return call.input if isinstance(call, NormCall) else compute()
