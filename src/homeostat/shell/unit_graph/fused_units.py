"""Find units of several rows, and units that others only weight: gated layers, attention values, fused matrices.

If an input feature of a layer depends on several units, either they are one unit in several rows (gate and up of a
gated layer), or one is the value and the others are weights (queries and keys). Guesses are made from passes in which
nothing varies over positions, so that attention weights have no effect. A code shows up to three owners of each
feature. Exact passes then check every guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from homeostat.shell.unit_graph.dependencies import (
    NOBODY,
    SEVERAL,
    Flow,
    bits_of,
    changes,
    departs,
    owners,
    read_at,
)
from homeostat.shell.unit_graph.pinned_model import STILL, PinnedCopy, Spot
from homeostat.shell.unit_graph.verify import Guess, added, uses, verified

MOST_SOURCES = 4
"""Largest number of layers that are combined at a feature of a gate or an attention; with more it is a residual
stream."""
MOST_OWNERS = 3


def guesses(pins: PinnedCopy, flow: Flow, open_sources: set[str]) -> tuple[list[Guess], dict[str, str]]:
    """Checked guesses for the layers in `open_sources`, and the reasons for some that have none."""
    met = {spot: flow.sources_at(spot) for spot in read_at(pins)}
    crowded = {s for names in met.values() if len(names) > MOST_SOURCES for s in names}
    wanted = _worth_reading(pins, flow, met, open_sources - crowded)
    met = {spot: names for spot, names in met.items() if wanted & set(names)}
    if not wanted:
        return [], {}
    passes = 4 * bits_of(pins.total) + 4 * len(wanted) + 20
    if late := pins.late(passes):
        why = f"telling its units from others they meet would take {late:.0f} s more than tracing may ({passes} passes)"
        return [], dict.fromkeys(wanted, why)
    found, reasons = _Guesser(pins, _owner_sets(pins, met), met, wanted).guesses()
    kept = verified(pins, flow, found, reasons)
    for source in wanted - reasons.keys() - {s for guess in kept for s in guess.sources}:
        if others := _partners(pins, source, met):
            reasons[source] = f"its units only weigh those of {others} (attention scores), so no column is one unit's"
    return kept, reasons


def _worth_reading(pins: PinnedCopy, flow: Flow, met: dict[Spot, list[str]], wanted: set[str]) -> set[str]:
    """The sources that may form units together with the others at their features, or alone if nothing is added to them.

    Residual sums are left out, because owner sets do not help there.
    """
    where: dict[str, set[Spot]] = {}
    for spot, names in met.items():
        for source in names if uses(pins, spot) else ():
            where.setdefault(source, set()).add(spot)
    found = set()
    for source in sorted(wanted & where.keys()):
        rivals = {name for spot in where[source] for name in met[spot]}
        together = all(rival in wanted and where[rival] == where[source] for rival in rivals)
        features = {spot: flow.reach[spot][source] for spot in where[source]}
        if together or added(pins, flow, {source}, pins.mask(source), features) is None:
            found.add(source)
    return found


def _partners(pins: PinnedCopy, source: str, met: dict[Spot, list[str]]) -> str:
    others = {n: None for names in met.values() if source in names for n in names if n != source}
    return ", ".join(pins.parts.parts[n].label if n in pins.parts.parts else n for n in others)


def _owner_sets(pins: PinnedCopy, met: dict[Spot, list[str]]) -> dict[Spot, Tensor]:
    """For every spot, the units that each feature depends on while nothing varies over positions.

    Returns:
        Spot -> [F, MOST_OWNERS] global unit numbers, -1 for none; a feature with more has -2 everywhere.
    """
    base = {spot: value for spot, value in pins.run(STILL).items() if spot in met}
    single = owners(pins, STILL, base, departs)
    table = {spot: _column(single[spot]) for spot in met}
    unclear = [spot for spot in met if bool((single[spot] == SEVERAL).any())]
    words = _code(pins.total, sum(base[spot].shape[1] for spot in unclear))
    if not unclear or pins.late(len(words)):
        return table  # features of several units stay marked, and are refused
    base = {spot: base[spot] for spot in unclear}
    shown = [changes(pins.run(STILL, word), base, departs) for word in words]
    for spot in unclear:
        none = torch.zeros(base[spot].shape[1], dtype=torch.bool)
        near = torch.cat([torch.arange(*pins.sources[name]) for name in met[spot]])
        table[spot] = _sets(torch.stack([changed.get(spot, none) for changed in shown]), words[:, near], near)
    return table


def _column(owner: Tensor) -> Tensor:
    table = torch.full((owner.numel(), MOST_OWNERS), NOBODY, dtype=torch.int64)
    table[:, 0] = owner
    table[owner == SEVERAL] = SEVERAL
    return table


def _code(total: int, features: int) -> Tensor:
    """Random words [passes, total], a quarter of each set: the chance that some unit passes for one of three owners of
    a feature is below 1 in 1000."""
    chance = 0.25 * 0.75**MOST_OWNERS
    passes = math.ceil(math.log(max(total, 2) * max(features, 2) * 1000) / -math.log1p(-chance))
    return torch.rand(passes, total, generator=torch.Generator().manual_seed(0)) < 0.25


def _sets(changed: Tensor, words: Tensor, units: Tensor) -> Tensor:
    """Owners of each feature [F, MOST_OWNERS] from changes [passes, F]: the units that were never selected when it did
    not change."""
    rested = (~changed).T.float() @ words.float()
    possible = rested == 0
    count = possible.sum(1)
    found = possible.float().topk(min(MOST_OWNERS, possible.shape[1]), dim=1).indices
    kept = torch.arange(found.shape[1]) < count[:, None]
    table = torch.full((len(count), MOST_OWNERS), NOBODY, dtype=torch.int64)
    table[:, : found.shape[1]] = torch.where(kept, units[found], NOBODY)
    table[count > MOST_OWNERS] = SEVERAL
    return table.sort(1, descending=True).values


@dataclass
class _Guesser:
    """Convert owner sets to guesses."""

    pins: PinnedCopy
    sets: dict[Spot, Tensor]
    met: dict[Spot, list[str]]
    wanted: set[str]

    def guesses(self) -> tuple[list[Guess], dict[str, str]]:
        found: list[Guess] = []
        reasons: dict[str, str] = {}
        for together in self._meeting_sources():
            guess = self._merged(together)
            if guess is not None:
                found.append(guess)
                continue
            for source in (name for name in together if name in self.wanted):
                alone = self._alone(source)
                if isinstance(alone, Guess):
                    found.append(alone)
                elif alone:
                    reasons[source] = alone
        return found, reasons

    def _source(self, unit: int) -> str:
        return next(name for name, (start, end) in self.pins.sources.items() if start <= unit < end)

    def _meeting_sources(self) -> list[tuple[str, ...]]:
        """Sources that share a feature, in order of registration. Each source is in one set."""
        company: dict[str, set[str]] = {name: {name} for name in self.pins.sources if name in self.wanted}
        for table in self.sets.values():
            for units in table[table[:, 1] >= 0].unique(dim=0).tolist():
                names = {self._source(unit) for unit in units if unit >= 0}
                joined = set().union(*(company.get(name, {name}) for name in names))
                company.update(dict.fromkeys(joined, joined))
        order = {name: i for i, name in enumerate(self.pins.sources)}
        return list(dict.fromkeys(tuple(sorted(company[s], key=order.__getitem__)) for s in order if s in self.wanted))

    def _features(self, sources: set[str]) -> Iterator[tuple[Spot, Tensor]]:
        """Spots that any of the sources affects, with their owner sets."""
        yield from ((spot, table) for spot, table in self.sets.items() if sources & set(self.met[spot]))

    def _merged(self, together: tuple[str, ...]) -> Guess | None:
        """All rows that are combined at a feature as one unit, if the same rows are combined wherever any of them is
        used."""
        if not set(together) <= self.wanted:
            return None
        mine = torch.zeros(self.pins.total, dtype=torch.bool)
        for source in together:
            mine |= self.pins.mask(source)
        classes: dict[tuple[int, ...], int] = {}
        owner: dict[Spot, list[int]] = {}
        reached = list(self._features(set(together)))
        for spot, table in sorted(reached, key=lambda item: not uses(self.pins, item[0])):
            numbers = [self._class(units, mine, classes, uses(self.pins, spot)) for units in table.tolist()]
            if SEVERAL in numbers:
                return None
            owner[spot] = numbers
        return self._guess(together, classes, owner)

    @staticmethod
    def _class(units: list[int], mine: Tensor, classes: dict[tuple[int, ...], int], whole: bool) -> int:
        """Number of the class of the owners of a feature, or at a norm before they are combined; SEVERAL if there is
        none."""
        key = tuple(sorted(unit for unit in units if unit >= 0 and bool(mine[unit])))
        if SEVERAL in units or (key and len(key) < sum(unit >= 0 for unit in units)):
            return SEVERAL
        if not key:
            return NOBODY
        if whole:
            return classes.setdefault(key, len(classes))
        return next((number for rows, number in classes.items() if set(key) <= set(rows)), SEVERAL)

    def _alone(self, source: str) -> Guess | str:
        """The units of one source, whatever else is at their features, or the reason why there are none."""
        start, end = self.pins.sources[source]
        classes: dict[tuple[int, ...], int] = {}
        owner: dict[Spot, list[int]] = {}
        for spot, table in self._features({source}):
            numbers = []
            for units in table.tolist():
                key = tuple(unit for unit in units if start <= unit < end)
                if len(key) > 1:
                    return f"its units are mixed with each other before {self.pins.parts.parts[spot.path].label}"
                numbers.append(classes.setdefault(key, len(classes)) if key else NOBODY)
            owner[spot] = numbers
        return self._guess((source,), classes, owner) or ""

    def _guess(
        self, sources: tuple[str, ...], classes: dict[tuple[int, ...], int], owner: dict[Spot, list[int]]
    ) -> Guess | None:
        sizes = {len(key) for key in classes}
        units = [unit for key in classes for unit in key]
        if not classes or len(sizes) != 1 or len(set(units)) < len(units):
            return None
        if not any(uses(self.pins, spot) and max(numbers) >= 0 for spot, numbers in owner.items()):
            return None
        if len({tuple(self._source(unit) for unit in key) for key in classes}) > 1:
            return None
        members = torch.tensor(list(classes))
        order = members[:, 0].argsort()
        rank = torch.cat([order.argsort(), torch.tensor([NOBODY])])
        present = tuple(s for s in sources if any(self._source(u) == s for u in members[0].tolist()))
        return Guess(present, members[order], {spot: rank[torch.tensor(numbers)] for spot, numbers in owner.items()})
