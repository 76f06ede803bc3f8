"""From the traced flow to unit groups: who may be paired, who not and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from homeostat.core.units import Axis, UnitGroup
from homeostat.shell.graph_decode import NOBODY, Flow, along, first_items, spots_of
from homeostat.shell.graph_modules import Part, Role
from homeostat.shell.graph_pins import PinnedCopy, Spot

_READERS = (Role.UNITS, Role.NORM, Role.SLOPE)


@dataclass
class _Draft:
    """What is known about one producer while its group is put together."""

    part: Part
    start: int
    end: int
    columns: list[Axis] = field(default_factory=list)
    biases: list[str | None] = field(default_factory=list)
    carriers: list[Axis] = field(default_factory=list)
    buffers: list[Axis] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def local(self, owner: Tensor) -> Tensor:
        """Owners as unit numbers within the layer; everything else NOBODY."""
        return torch.where((owner >= self.start) & (owner < self.end), owner - self.start, NOBODY)


def pair(pins: PinnedCopy, flow: Flow) -> tuple[list[UnitGroup], dict[str, str]]:
    """Groups of the layers whose units can be paired with all that uses them, and the reason for every other layer."""
    groups, refused = [], {}
    for part in pins.parts.of(Role.UNITS, Role.OPAQUE):
        if part.role is Role.OPAQUE:
            refused[part.path] = _closed(part)
            continue
        draft = _Draft(part, *pins.sources[part.path])
        _examine(draft, pins, flow)
        if draft.reasons:
            refused[part.path] = "; ".join(dict.fromkeys(draft.reasons[:2]))
        else:
            groups.append(_group(draft))
    return groups, refused


def _closed(part: Part) -> str:
    if isinstance(part.module, (nn.Embedding, nn.EmbeddingBag)):
        return f"it is a table ({part.kind}): its features have no incoming weights"
    return f"{part.kind} cannot be looked into, so its units are not known"


def _examine(draft: _Draft, pins: PinnedCopy, flow: Flow) -> None:
    part, calls = draft.part, pins.calls.get(draft.part.path, 0)
    if part.aliases:
        draft.reasons.append(f"it is also used as {', '.join(part.aliases)}")
    if (why := pins.parts.producer_trouble(part)) is not None:
        draft.reasons.append(why)
    if calls != 1:
        draft.reasons.append("it was not called" if calls == 0 else f"it is called {calls} times in one forward pass")
    if calls == 0:
        return
    for spot in flow.codes:
        if spot.side == "return" and flow.reaches(spot, part.path):
            draft.reasons.append("its units reach the network's output directly")
            break
    for other in pins.parts.of(Role.OPAQUE):
        if any(flow.reaches(spot, part.path) for spot in spots_of(flow, other.path, "input")):
            draft.reasons.append(f"its units enter {other.path} ({other.kind}), which cannot be looked into")
    for other in pins.parts.of(*_READERS):
        spots = first_items(spots_of(flow, other.path, "input"))
        if any(flow.reaches(spot, part.path) for spot in spots):
            _read(draft, other, spots, pins, flow)
    _check_complete(draft)


def _read(draft: _Draft, other: Part, spots: list[Spot], pins: PinnedCopy, flow: Flow) -> None:
    """Units arrive at another module's input: take its columns or parameters, or find out why not."""
    reason = _mixed(draft, other, spots, flow)
    maps = [flow.owners(spot, _axis(other, flow.codes[spot])) for spot in spots]
    if reason is None and any(not torch.equal(owner, maps[0]) for owner in maps[1:]):
        reason = f"{other.path} is called {len(spots)} times with different units"
    if reason is None and other.grouped:
        reason = f"it feeds {other.path}, a grouped convolution"
    if reason is not None:
        draft.reasons.append(reason)
    elif other.role is Role.UNITS:
        _use(draft, other, draft.local(maps[0]), pins)
    else:
        _carry(draft, other, draft.local(maps[0]), pins)


def _axis(part: Part, tensor: Tensor) -> int:
    return min(part.axis, tensor.ndim - 1)


def _mixed(draft: _Draft, other: Part, spots: Iterable[Spot], flow: Flow) -> str | None:
    for spot in spots:
        axis = _axis(other, flow.codes[spot])
        reached = flow.reach.get(spot, {})
        mine = along(reached[draft.part.path], axis) if draft.part.path in reached else None
        if mine is None:
            continue
        rivals = [s for s, m in reached.items() if s != draft.part.path and bool((along(m, axis) & mine).any())]
        if rivals:
            names = ", ".join(rivals[:3]) + (" and others" if len(rivals) > 3 else "")
            return f"before {other.path} its units are combined with {names} (residual, gate or attention)"
        owned = draft.local(flow.owners(spot, axis)) != NOBODY
        if bool((mine & ~owned).any()) or bool((along(flow.crossed[spot], axis) & mine).any()):
            return f"its units are mixed with each other before {other.path}"
    return None


def _use(draft: _Draft, consumer: Part, owner: Tensor, pins: PinnedCopy) -> None:
    if (why := pins.parts.trouble(consumer, "weight")) is not None:
        draft.reasons.append(f"it feeds {consumer.path}, but {why}")
        return
    draft.columns.append(Axis(_join(consumer.path, "weight"), 1, owner))
    bias = consumer.module._parameters.get("bias")
    usable = bias is not None and pins.parts.trouble(consumer, "bias") is None
    draft.biases.append(_join(consumer.path, "bias") if usable else None)


def _carry(draft: _Draft, norm: Part, owner: Tensor, pins: PinnedCopy) -> None:
    for key, parameter in norm.module._parameters.items():
        if parameter is None or parameter.numel() == 1 or not parameter.requires_grad:
            continue
        if parameter.shape[0] != owner.numel():
            draft.reasons.append(f"it passes {norm.path}, whose {key} has one value for several units")
        elif (why := pins.parts.trouble(norm, key)) is not None:
            draft.reasons.append(f"it passes {norm.path}, but {why}")
        else:
            draft.carriers.append(Axis(_join(norm.path, key), 0, owner))
    for key, buffer in norm.module._buffers.items():
        if buffer is not None and buffer.ndim == 1 and buffer.shape[0] == owner.numel():
            draft.buffers.append(Axis(_join(norm.path, key), 0, owner))


def _check_complete(draft: _Draft) -> None:
    if draft.reasons:
        return
    used = torch.cat([torch.tensor([NOBODY]), *(axis.owner for axis in draft.columns)]).unique().numel() - 1
    if used < draft.part.width:
        missing = draft.part.width - used
        draft.reasons.append(f"nothing was seen to use {missing} of its {draft.part.width} units")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _group(draft: _Draft) -> UnitGroup:
    part = draft.part
    identity = torch.arange(part.width)
    rows = [
        Axis(_join(part.path, k), 0, identity) for k in ("weight", "bias") if part.module._parameters.get(k) is not None
    ]
    return UnitGroup(
        layer=part.path,
        width=part.width,
        rows=tuple(rows),
        columns=tuple(draft.columns),
        carriers=tuple(draft.carriers),
        buffers=tuple(draft.buffers),
        consumer_biases=tuple(draft.biases),
    )
