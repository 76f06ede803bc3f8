"""The laws that use a treatment's runs on the whole grid. The runs are shared between these laws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from homeostat.core.errors import Refused
from homeostat.core.treatment import Stage, Treatment
from homeostat.testing.grid import BATCH_NORMED, GRID, TANH, Case
from homeostat.testing.law import DoesNotApply
from homeostat.testing.mini_run import Bench, Event

LONG_STEPS, SHORT_STEPS = 200, 20
LONG = (TANH,)


class GridRuns:
    """Runs of one treatment on the grid: 200 steps on one network and 20 on the others, or 200 on all if thorough.

    Attributes:
        events: network -> number of times the treatment acted.
        broken: descriptions of broken promises.
        infinite: descriptions of tensors that were not finite at the end of a run.
    """

    def __init__(self, treatment: Treatment, thorough: bool = False) -> None:
        self.treatment = treatment
        self.events: dict[str, int] = {}
        self.broken: list[str] = []
        self.infinite: list[str] = []
        for bench in benches(treatment):
            self._check(bench, bench.begun)
            self._run(bench, LONG_STEPS if thorough or bench.case in LONG else SHORT_STEPS)

    def _run(self, bench: Bench, steps: int) -> None:
        where = bench.case.name
        self.events[where] = 0
        for _ in range(steps):
            events = bench.train(1)
            self.events[where] += len(events)
            self._check(bench, events)
        tensors = {**bench.snapshot(), **bench.state}
        self.infinite += [f"{n} on {where!r}" for n, v in tensors.items() if not bool(torch.isfinite(v).all())]

    def _check(self, bench: Bench, events: Iterable[Event]) -> None:
        for event in events:
            if wrong := self.treatment.effect(event.before, event.edits, event.after):
                self.broken.append(f"on {bench.case.name!r} at step {bench.step}: {wrong}")


def benches(treatment: Treatment, cases: Iterable[Case] = GRID) -> Iterator[Bench]:
    """A run on each network that the treatment does not refuse; with batch normalisation if it needs that.

    Raises:
        AssertionError: it refuses every network.
    """
    taken = 0
    for case in (*cases, *(BATCH_NORMED.values() if treatment.needs_batch_norm else ())):
        try:
            bench = Bench(case, treatment)
        except Refused:
            continue
        taken += 1
        yield bench
    assert taken, "it refuses every network of the grid"


def acts(runs: GridRuns) -> None:
    """With its trial settings, it acts on at least one network of the grid within 200 steps or before the first."""
    if runs.treatment.stage == Stage.MODULES:
        raise DoesNotApply('it acts once, before the first step; the law "effect" checks this')
    assert any(runs.events.values()), "it did nothing on any network of the grid"


def effect(runs: GridRuns) -> None:
    """Its promised effect is present after the optimizer update of the same step, at every event."""
    if type(runs.treatment).effect is Treatment.effect:
        raise DoesNotApply("it promises no effect that is visible after a step (it has no method `effect`)")
    assert not runs.broken, runs.broken[0]


def finite(runs: GridRuns) -> None:
    """After 200 steps on every network of the grid (20 on most of them in the quick check), parameters, optimizer state
    and treatment state are finite."""
    assert not runs.infinite, f"{runs.infinite[0]} is not finite at the end"
