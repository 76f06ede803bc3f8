"""Controllers read a vital or a gauge and set a knob or a dial."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from homeostat.core.component import find
from homeostat.core.controller import Controller
from homeostat.core.dial import Dial, Gauge, number
from homeostat.core.finding import JournalEntry
from homeostat.core.treatment import State
from homeostat.core.vital import NETWORK, Vital
from homeostat.diagnosis.history import History
from homeostat.shell.observe.observer import Row
from homeostat.shell.run.schedule import next_multiple
from homeostat.shell.run.treatments import JOURNAL_EVERY, TreatmentRunner

LOOP_EVERY = 50
"""Cadence, in steps, of the closed loop and of the vitals it reads, unless `every` is given."""

HEAVY_SLOWER = 20
"""Factor on the cadence of the closed loop's vitals that need many passes (sharpness, plasticity)."""


@dataclass(eq=False)
class ControllerRunner:
    """One controller on one network.

    Args:
        gauges: name -> function that returns a number of the user.
        add_entry: takes journal entries.

    Attributes:
        reported: (value, step) of the knob in the last journal entry; the step is None before the first entry.
    """

    controller: Controller
    treatments: TreatmentRunner
    gauges: Mapping[str, Gauge] = field(default_factory=dict)
    add_entry: Callable[[JournalEntry], None] = lambda entry: None
    state: State = field(default_factory=dict)
    begun: bool = False
    reported: tuple[float, int | None] | None = None

    def next_due(self, step: int) -> int:
        """The first step after `step` at which it acts."""
        return next_multiple(step, self.controller.every)

    def turn(self, history: History, step: int) -> list[Row]:
        """Read the vital or gauge, and set the knob or dial. Returns rows for the record.

        A missing reading changes nothing. With several ranks, all use the reading of the first one.
        """
        network, controller = self.treatments.network, self.controller
        source = controller.vital.partition("@")[0]
        gauge = self.gauges.get(source)
        measured = read_vital(history, controller, network.label) if gauge is None else number(gauge())
        if network.ranks is not None:
            measured = network.ranks.from_first(measured, network.device)
        dial = find_dial(self.treatments, controller.knob)
        present = None if dial is None else dial.read()
        if measured is None:
            return []
        rows: list[Row] = [] if gauge is None else [(step, source, network.named(NETWORK), measured)]
        if dial is None or present is None:
            return rows
        if not self.begun:
            self.state, self.begun = controller.init(torch.tensor(present, dtype=torch.float64)), True
        value, self.state = controller.step(torch.tensor(measured, dtype=torch.float64), self.state)
        after = float(value) if self.treatments.dry_run else dial.turn(float(value))
        if after != float(value) and "value" in self.state:  # the limit of the dial: nothing must wind up beyond it
            self.state = {**self.state, "value": torch.full_like(self.state["value"], after)}
        self._note(step, present, after)
        return [*rows, (step, "knob", network.named(controller.knob), after)]

    def state_dict(self) -> dict[str, Any]:
        """State of the control law, and the last journal entry."""
        return {
            "controller": identity(self.controller),
            "begun": self.begun,
            "reported": None if self.reported is None else list(self.reported),
            "state": dict(self.state),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.begun, self.state = state["begun"], dict(state["state"])
        self.reported = (reported[0], reported[1]) if (reported := state["reported"]) else None

    def _note(self, step: int, before: float, after: float) -> None:
        """Journal entry for the first change, and then at most one every `JOURNAL_EVERY` steps."""
        value, at = self.reported or (before, None)
        self.reported = (value, at)
        if after != value and (at is None or step - at >= JOURNAL_EVERY):
            controller = self.controller
            action = "dry run" if self.treatments.dry_run else "knob"
            where, why = self.treatments.network.named(controller.knob), f"turned by {controller.vital}"
            self.add_entry(JournalEntry(step, controller.name, action, where, why, value, after))
            self.reported = (after, step)


def identity(controller: Controller) -> list[str]:
    """Key of a controller in a run: its name, knob and vital."""
    return [controller.name, controller.knob, controller.vital]


def find_dial(treatments: TreatmentRunner, name: str) -> Dial | None:
    """The dial of that name, or of the knob "treatment.knob"; None if the treatment is not applied."""
    if (given := treatments.network.dials.get(name)) is not None:
        return given
    knob = treatments.knob(name)
    return None if knob is None else Dial(lambda: knob, knob.fill_)


def read_vital(history: History, controller: Controller, label: str) -> float | None:
    """The latest value of the controller's vital over the layers it names, or over all of the network's layers."""
    name, _, part = controller.vital.partition("@")
    layers = [k for k in history.layers(name) if all(not of or f"{k}.".startswith(f"{of}.") for of in (label, part))]
    latest = [found[1] for k in layers if (found := history.latest(name, k)) is not None and found[1] == found[1]]
    if not latest:
        return None
    if controller.over == "mean":
        return sum(latest) / len(latest)
    return min(latest) if find("vital", name).worse == "lower" else max(latest)


def meant_for(controller: Controller, label: str) -> bool:
    """Whether a controller acts on the network with that label: its vital names no part, this network, or a part of it.

    In a run of one network, which has no label, every controller does.
    """
    part = controller.vital.partition("@")[2]
    return not (part and label) or f"{part}.".startswith(f"{label}.")


def fixed_cadences(
    controllers: Sequence[Controller], auto: bool, every: int | None, reads: Sequence[Vital]
) -> dict[str, int]:
    """Vital -> fixed cadence in steps, for the vitals that a controller or the closed loop reads.

    Args:
        reads: the vitals that findings depend on; heavy ones are measured `HEAVY_SLOWER` times less often.
    """
    base = every or LOOP_EVERY
    fixed = {v.name: base * (HEAVY_SLOWER if v.cost == "heavy" else 1) for v in reads} if auto else {}
    for controller in controllers:
        name = controller.vital.partition("@")[0]
        fixed[name] = min(controller.every, fixed.get(name, controller.every))
    return fixed


def controller_runners(
    controllers: Sequence[Controller],
    treatments: TreatmentRunner,
    gauges: Mapping[str, Gauge],
    add_entry: Callable[[JournalEntry], None],
) -> list[ControllerRunner]:
    """A runner for each controller of the network, each with its own state."""
    label = treatments.network.label
    return [
        ControllerRunner(dataclasses.replace(c), treatments, gauges, add_entry)
        for c in controllers
        if meant_for(c, label)
    ]
