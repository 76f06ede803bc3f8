"""Make unit groups from the traced flow, and refuse the other layers with a reason."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from homeostat.core.units import Axis, UnitGroup
from homeostat.shell.hooks.module_tree import named_buffers_in
from homeostat.shell.unit_graph.dependencies import NOBODY, Flow, read_at
from homeostat.shell.unit_graph.fused_units import guesses
from homeostat.shell.unit_graph.module_roles import Part, Role
from homeostat.shell.unit_graph.pinned_model import RETURN, SOURCES, PinnedCopy, Spot
from homeostat.shell.unit_graph.verify import Guess, combined


@dataclass(frozen=True)
class Pairing:
    """The groups and the refused layers.

    Args:
        groups: layers whose units are grouped with everything that uses them.
        guesses: the same groups in unit numbers, aligned with `groups`.
        refused: label of every other layer -> the reason.
    """

    groups: tuple[UnitGroup, ...]
    guesses: tuple[Guess, ...]
    refused: dict[str, str]


def pair(pins: PinnedCopy, flow: Flow) -> Pairing:
    """Group the units of every layer if possible; refuse the others."""
    refused: dict[str, list[str]] = {part.path: _outright(part, pins, flow) for part in pins.parts.of(*SOURCES)}
    found: list[Guess] = []
    joined: dict[str, str] = {}
    for path in [path for path, reasons in refused.items() if not reasons]:
        guess = _single(pins.parts.parts[path], pins, flow)
        if isinstance(guess, Guess):
            found.append(guess)
        else:
            joined[path] = guess
    more, better = guesses(pins, flow, set(joined)) if joined else ([], {})
    for path, reason in {**joined, **better}.items():
        refused[path].append(reason)
    for guess in more:
        for path in guess.sources:
            refused[path].clear()
    return _pairing(pins, _chained([*found, *more], pins, refused), refused)


def _pairing(pins: PinnedCopy, found: list[Guess], refused: dict[str, list[str]]) -> Pairing:
    order = {path: i for i, path in enumerate(pins.sources)}
    groups, kept = [], []
    for guess in sorted(found, key=lambda g: order[g.sources[0]]):
        draft = _Draft(guess, pins)
        draft.assemble()
        if draft.reasons:
            for path in guess.sources:
                refused[path] += draft.reasons
        else:
            groups.append(draft.group())
            kept.append(guess)
    reasons = {pins.parts.parts[p].label: "; ".join(dict.fromkeys(why[:2])) for p, why in refused.items() if why}
    return Pairing(tuple(groups), tuple(kept), reasons)


def _outright(part: Part, pins: PinnedCopy, flow: Flow) -> list[str]:
    """Reasons in the layer itself, or in the modules that use its units."""
    if part.layout is None and isinstance(part.module, (nn.Embedding, nn.EmbeddingBag)):
        return [f"it is a table ({part.kind}): its features have no incoming weights"]
    reasons, calls = [], pins.calls.get(part.path, 0)
    if part.aliases:
        reasons.append(f"it is also used as {', '.join(part.aliases)}")
    if (why := pins.parts.row_refusal(part)) is not None:
        reasons.append(why)
    if calls != 1:
        reasons.append("it was not called" if calls == 0 else f"it is called {calls} times in one forward pass")
    if calls and any(spot.path == RETURN and flow.reaches(spot, part.path) for spot in flow.owner):
        reasons.append("its units reach the network's output directly")
    return reasons + (_entered(part, pins, flow) if calls else [])


def _entered(part: Part, pins: PinnedCopy, flow: Flow) -> list[str]:
    reasons = []
    for other in pins.parts.of(Role.OPAQUE, Role.RECURRENT):
        spots = [s for s in flow.owner if s.path == other.path and flow.reaches(s, part.path)]
        if other.role is Role.OPAQUE and spots:
            reasons.append(f"its units enter {other.label} ({other.kind}), which cannot be looked into")
        elif any(spot.item for spot in spots):
            reasons.append(f"its units enter {other.label} ({other.kind}) as its initial state")
    return reasons


def _single(part: Part, pins: PinnedCopy, flow: Flow) -> Guess | str:
    """A layer in which every row is a unit and no other units are at the same features; or the reason."""
    start, end = pins.sources[part.path]
    guess = Guess((part.path,), torch.arange(start, end)[:, None])
    spots = read_at(pins)
    used = {spot.path for spot in spots if flow.reaches(spot, part.path)}
    for spot in [spot for spot in spots if spot.path in used]:
        if (reason := _mixed(part, spot, pins, flow)) is not None:
            return reason
        owner = flow.owner[spot]
        guess.owner[spot] = torch.where((owner >= start) & (owner < end), owner - start, NOBODY)
    return guess


def _mixed(part: Part, spot: Spot, pins: PinnedCopy, flow: Flow) -> str | None:
    start, end = pins.sources[part.path]
    reached, label = flow.reach.get(spot, {}), pins.parts.parts[spot.path].label
    if part.path not in reached:
        return None
    mine = reached[part.path]
    rivals = [source for source, changed in reached.items() if source != part.path and bool((changed & mine).any())]
    if rivals:
        return combined(label, [pins.parts.parts[r].label if r in pins.parts.parts else r for r in rivals])
    owner = flow.owner[spot]
    owned = (owner >= start) & (owner < end)
    if bool((mine & ~owned).any()) or bool((flow.crossed[spot] & mine).any()):
        return f"its units are mixed with each other before {label}"
    return None


def _chained(found: list[Guess], pins: PinnedCopy, refused: dict[str, list[str]]) -> list[Guess]:
    """Join the groups before and behind each depthwise convolution into one group.

    The channel is the only input of its kernel, so a kernel whose channel is cut might never learn again. The rows
    before, the kernel and everything between are therefore one unit.

    Args:
        refused: receives the reason if that is not possible.
    """
    kept = list(found)
    while (link := _link(kept, pins)) is not None:
        before, spot = link
        kept.remove(before)
        path = spot.path
        after = next((g for g in kept if g.sources == (path,) or g.sources[0] == path), None)
        joined = None if after is None else _joined(before, spot, after)
        if joined is None or after is None:
            why = f"it feeds {pins.parts.parts[path].label}, a depthwise convolution whose own units are not paired"
            for source in before.sources:
                refused[source].append(why)
        else:
            kept[kept.index(after)] = joined
    return kept


def _link(found: list[Guess], pins: PinnedCopy) -> tuple[Guess, Spot] | None:
    """A group, and the spot where it is the input of a depthwise convolution."""
    for guess in found:
        for spot, owner in guess.owner.items():
            layout = pins.parts.parts[spot.path].layout
            depthwise = layout is not None and any(b.groups > 1 and b.size == 1 for b in layout.columns)
            if depthwise and bool((owner >= 0).any()):
                return guess, spot
    return None


def _joined(before: Guess, spot: Spot, after: Guess) -> Guess | None:
    """One joined group, if each unit is one channel and each channel one unit."""
    owner = before.owner[spot]
    if (
        owner.numel() != before.width
        or after.width != before.width
        or not torch.equal(owner.sort().values, torch.arange(before.width))
    ):
        return None
    if not torch.equal(after.members[:, 0], after.members[0, 0] + torch.arange(after.width)):
        return None
    rest = {p: o for p, o in before.owner.items() if p != spot}
    if set(rest) & set(after.owner):
        return None
    # unit u of the group is channel c, where owner[c] == u
    renamed = {p: torch.where(o >= 0, owner[o.clamp(min=0)], -1) for p, o in after.owner.items()}
    members = torch.cat([before.members, after.members[owner.argsort()]], 1)
    return Guess(before.sources + after.sources, members, rest | renamed, after.summed or after.members.shape[1])


@dataclass
class _Draft:
    """A group that is being built."""

    guess: Guess
    pins: PinnedCopy
    columns: list[Axis] = field(default_factory=list)
    biases: list[str | None] = field(default_factory=list)
    carriers: list[Axis] = field(default_factory=list)
    buffers: list[Axis] = field(default_factory=list)
    mixers: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def assemble(self) -> None:
        """Collect what uses and carries the units, or the reasons why they cannot be edited."""
        by_part: dict[str, list[Tensor]] = {}
        for spot, owner in self.guess.owner.items():
            by_part.setdefault(spot.path, []).append(owner)
        for path, owners in by_part.items():
            part, first = self.pins.parts.parts[path], owners[0]
            if not any(bool((owner >= 0).any()) for owner in owners):
                continue
            if any(not torch.equal(first, owner) for owner in owners):
                self.reasons.append(f"{part.label} is called {len(owners)} times with different units")
            elif part.layout is not None:
                self._use(part, first)
            else:
                self._carry(part, first)
        self._check_complete()
        self._use_inside()

    def _use(self, consumer: Part, owner: Tensor) -> None:
        assert consumer.layout is not None
        if consumer.layout.no_columns:
            self.reasons.append(f"it feeds {consumer.label}, but {consumer.layout.no_columns}")
        for block, bias in zip(consumer.layout.columns, consumer.layout.biases, strict=True):
            if (why := self.pins.parts.refusal(block.name, consumer)) is not None:
                self.reasons.append(f"it feeds {consumer.label}, but {why}")
                return
            self.columns.append(block.axis(owner))
            usable = bias is not None and self.pins.parts.refusal(bias, consumer) is None
            self.biases.append(bias if usable else None)

    def _carry(self, norm: Part, owner: Tensor) -> None:
        parts = self.pins.parts
        if norm.mixes:
            self.mixers.append(norm.label)
        buffers = dict(named_buffers_in(self.pins.model))
        for name in norm.own:
            value = parts.parameters.get(name)
            if value is None:
                if (buffer := buffers.get(name)) is not None and buffer.shape == owner.shape:
                    self.buffers.append(Axis(name, 0, owner))
            elif value.numel() > 1 and value.requires_grad:
                if value.shape[0] != owner.numel():
                    key = name.rpartition(".")[2]
                    self.reasons.append(f"it passes {norm.label}, whose {key} has one value for several units")
                elif (why := parts.refusal(name, norm)) is not None:
                    self.reasons.append(f"it passes {norm.label}, but {why}")
                else:
                    self.carriers.append(Axis(name, 0, owner))

    def _check_complete(self) -> None:
        used = torch.cat([torch.tensor([NOBODY]), *(axis.owner for axis in self.columns)]).unique().numel() - 1
        if not self.reasons and used < self.guess.width:
            missing = self.guess.width - used
            self.reasons.append(f"nothing was seen to use {missing} of its {self.guess.width} units")

    def _use_inside(self) -> None:
        """A recurrent layer uses its own units in the next step of the sequence."""
        layout = self.pins.parts.parts[self.guess.sources[0]].layout
        for block, bias in zip(layout.inner, layout.inner_biases, strict=True) if layout else ():
            self.columns.append(block.axis(torch.arange(self.guess.width)))
            self.biases.append(bias)

    def _rows(self) -> list[Axis]:
        rows = []
        for source in self.guess.sources:
            part, (start, end) = self.pins.parts.parts[source], self.pins.sources[source]
            assert part.layout is not None
            owner = torch.full((end - start,), NOBODY, dtype=torch.int64)
            inside = (self.guess.members >= start) & (self.guess.members < end)
            units = torch.arange(self.guess.width)[:, None].expand_as(self.guess.members)
            owner[self.guess.members[inside] - start] = units[inside]
            rows += [block.axis(owner) for block in part.layout.rows]
        return rows

    def group(self) -> UnitGroup:
        """The finished group."""
        return UnitGroup(
            layer=self.pins.parts.parts[self.guess.sources[0]].label,
            width=self.guess.width,
            rows=tuple(self._rows()),
            columns=tuple(self.columns),
            carriers=tuple(self.carriers),
            buffers=tuple(self.buffers),
            consumer_biases=tuple(self.biases),
            mixers=tuple(self.mixers),
        )
