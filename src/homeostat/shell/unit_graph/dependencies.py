"""Find which unit each feature depends on, from forward passes with selected units."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from homeostat.shell.unit_graph.pinned_model import NARROW, READERS, WIDE, Palette, PinnedCopy, Snapshot, Spot
from homeostat.shell.unit_graph.sandbox import Untraceable
from homeostat.shell.unit_graph.weight_layout import NOBODY

SEVERAL = -2


def differs(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise "not the same value"; NaN equals NaN."""
    return (a != b) & ~((a != a) & (b != b))


def departs(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise "not the same value up to rounding", for the palette "still", where sums of weights are rounded.

    A weaker dependence is found by the exact passes that check every group.
    """
    return differs(a, b) & ((a.double() - b.double()).abs() > 1e-4 * (a.double().abs() + b.double().abs()))


@dataclass
class Flow:
    """The results of the passes.

    Args:
        owner: spot -> for each feature the unit it depends on, NOBODY or SEVERAL, int64 [F].
        reach: spot -> source -> features that changed when everything of that source changed, bool [F].
        crossed: spot -> features that changed although their owner did not (found with wide values only).
    """

    owner: dict[Spot, Tensor]
    reach: dict[Spot, dict[str, Tensor]] = field(default_factory=dict)
    crossed: dict[Spot, Tensor] = field(default_factory=dict)

    def reaches(self, spot: Spot, source: str) -> bool:
        """Whether the source affects the spot."""
        return source in self.reach.get(spot, {})

    def sources_at(self, spot: Spot) -> list[str]:
        """Every source that affects the spot."""
        return list(self.reach.get(spot, {}))


def follow(pins: PinnedCopy) -> Flow:
    """Run all passes: two complementary ones for each bit of the unit number, then one for each source.

    Raises:
        Untraceable: the forward is not deterministic.
    """
    if any(bool(differs(pins.base[spot], again).any()) for spot, again in pins.run(NARROW).items()):
        raise Untraceable("its forward gives different values for the same input and seed")
    flow = Flow(owners(pins, NARROW, pins.base, differs))
    # narrow values keep every activation responsive; wide values of both signs show what narrow ones hide
    _reach(pins, flow, NARROW, pins.base)
    wide = pins.run(WIDE)
    _reach(pins, flow, WIDE, wide)
    _cross(pins, flow, wide)
    return flow


def bits_of(total: int) -> int:
    """Number of bits that number `total` units."""
    return max(1, math.ceil(math.log2(max(total, 1))))


def owners(
    pins: PinnedCopy, palette: Palette, base: Snapshot, differ: Callable[[Tensor, Tensor], Tensor]
) -> dict[Spot, Tensor]:
    """The unit that each feature at the spots of `base` depends on, NOBODY or SEVERAL: int64 [F]."""
    numbers = torch.arange(pins.total)
    code = {s: torch.zeros(t.shape[1], dtype=torch.int64) for s, t in base.items()}
    clean = {s: torch.ones_like(c, dtype=torch.bool) for s, c in code.items()}
    touched = {s: torch.zeros_like(c, dtype=torch.bool) for s, c in code.items()}
    none = torch.zeros((), dtype=torch.bool)
    for bit in range(bits_of(pins.total)):
        is_set = (numbers >> bit & 1).bool()
        ones, zeros = (changes(pins.run(palette, mask), base, differ) for mask in (is_set, ~is_set))
        for spot in code:
            one, zero = ones.get(spot, none), zeros.get(spot, none)
            code[spot].add_(one, alpha=1 << bit)
            clean[spot] &= one ^ zero
            touched[spot] |= one | zero
    for spot, value in code.items():
        value[~clean[spot]] = SEVERAL
        value[~touched[spot]] = NOBODY
    return code


def changes(now: Snapshot, base: Snapshot, differ: Callable[[Tensor, Tensor], Tensor] = differs) -> Snapshot:
    """Which features changed, bool [F], for the spots of `base` where any did."""
    found = {s: differ(now[s], t).any(0).cpu() for s, t in base.items() if not torch.equal(now[s], t)}
    return {spot: changed for spot, changed in found.items() if bool(changed.any())}


def _reach(pins: PinnedCopy, flow: Flow, palette: Palette, base: Snapshot) -> None:
    for source in pins.sources:
        for spot, changed in changes(pins.run(palette, pins.mask(source)), base).items():
            known = flow.reach.setdefault(spot, {})
            known[source] = known[source] | changed if source in known else changed


def _cross(pins: PinnedCopy, flow: Flow, base: Snapshot) -> None:
    flow.crossed = {spot: torch.zeros_like(owner, dtype=torch.bool) for spot, owner in flow.owner.items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        chosen = torch.rand(pins.total, generator=generator) < 0.5
        for spot, changed in changes(pins.run(WIDE, chosen), base).items():
            owner = flow.owner[spot]
            flow.crossed[spot] |= changed & ~chosen[owner.clamp(min=0)] & (owner >= 0)


def read_at(pins: PinnedCopy) -> list[Spot]:
    """Every spot at which a layer or norm reads features: the first tensor of each call."""
    order = {part.path: i for i, part in enumerate(pins.parts.of(*READERS))}
    return sorted((s for s in pins.base if s.path in order and not s.item), key=lambda s: (order[s.path], s.call))
