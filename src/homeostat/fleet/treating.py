"""Treatments of R stacked replicas: the same plans as in a solo run, for all replicas at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from homeostat.core.errors import BadInput, Refused
from homeostat.core.random import Draw
from homeostat.core.snapshot import Reading
from homeostat.core.treatment import Stage, State, Treatment, View
from homeostat.fleet.edits import StackedTargets, apply_stacked
from homeostat.shell.unit_graph.traced_network import TracedNetwork

_STAGES = (Stage.LOSS, Stage.GRADIENT, Stage.UPDATE, Stage.BOUNDARY, Stage.EVALUATION)
_REPLACING = "it acts on the batch or on modules, which the replicas share"


def admit(treatment: Treatment) -> None:
    """Check that a treatment can be applied to a fleet.

    Raises:
        Refused: with the reason.
    """
    if "lifts" in treatment.declared:
        raise Refused(treatment.name, "a fleet", treatment.declared["lifts"])
    if treatment.stage not in _STAGES:
        raise Refused(treatment.name, "a fleet", _REPLACING)


@dataclass(eq=False)
class StackedTreatment:
    """A treatment, its knobs (numbers, or one value a replica) and its state [R, ...]."""

    treatment: Treatment
    knobs: dict[str, Tensor]
    state: State = field(default_factory=dict)


class StackedTreatments:
    """The treatments of one stack, in the order in which they act.

    Args:
        treatments: in the given order.
        knobs: "treatment.knob" -> number or tensor [R].
        seeds: seed of each replica's draws.
    """

    def __init__(self, treatments: Sequence[Treatment], knobs: Mapping[str, Any], seeds: Sequence[int]) -> None:
        for treatment in treatments:
            admit(treatment)
        self.applied = [StackedTreatment(treatment, treatment.knobs()) for treatment in _ordered(treatments)]
        self.seeds, self.task = list(seeds), 0
        self.begun = False
        self.traced = TracedNetwork()
        self._before: dict[str, Tensor] = {}
        for name, value in knobs.items():
            self.set_knob(name, value)

    def set_knob(self, name: str, value: Any) -> None:
        """Set "treatment.knob" to a number or a tensor [R].

        Raises:
            BadInput: there is no such knob.
        """
        owner, _, knob = name.partition(".")
        found = next((one for one in self.applied if one.treatment.name == owner and knob in one.knobs), None)
        if found is None:
            raise BadInput(f"fleet: there is no knob {name!r}")
        found.knobs[knob] = torch.as_tensor(value, dtype=torch.float64)

    def reads(self, reading: Reading, step: int) -> bool:
        """Whether a treatment that is due at this step needs this reading."""
        return any(reading in one.treatment.reads and one.treatment.due(step) for one in self.applied)

    def reads_gradients(self, step: int) -> bool:
        """Whether the gradients themselves are needed at this step."""
        at = (one.treatment for one in self.applied if one.treatment.due(step))
        return any(Reading.GRADIENTS in each.reads or each.stage == Stage.GRADIENT for each in at)

    def begin(self, targets: StackedTargets, traced: TracedNetwork, rate: float, step: int) -> None:
        """Initialise the state of every treatment, before the first step."""
        self.traced, self.begun = traced, True
        if any(Reading.INITIAL in one.treatment.reads for one in self.applied):
            traced.initial = {n: p.detach().clone() for n, p in targets.parameters.items()}
        for one in self.applied:
            if one.treatment.needs_units and not traced.units:
                named = "; ".join(f"{layer}: {why}" for layer, why in list(traced.refused.items())[:4])
                why = f"no hidden layer could be paired ({named or 'none found'})"
                raise Refused(one.treatment.name, "this network", why)
            with torch.no_grad():
                one.state = one.treatment.init(self._view(one, targets, {}, rate, step), one.knobs)

    def before_update(self, targets: StackedTargets, step: int) -> None:
        """Keep the weights before the optimizer's update, if a treatment due at this step reads them."""
        wanted = self.reads(Reading.UPDATES, step)
        self._before = {n: p.detach().clone() for n, p in targets.parameters.items()} if wanted else {}

    def act(
        self,
        stage: Stage,
        step: int,
        targets: StackedTargets,
        activations: Mapping[str, Tensor],
        rate: float,
        labels: Tensor | None = None,
    ) -> list[Any]:
        """Plan and apply everything that is due at this stage. Returns what undoes the edits, last first."""
        undo: list[Any] = []
        for one in self.applied:
            if one.treatment.stage != stage or not (stage == Stage.BOUNDARY or one.treatment.due(step)):
                continue
            with torch.no_grad():
                view = self._view(one, targets, activations, rate, step, labels)
                edits, one.state = one.treatment.plan(view, one.state, one.knobs)
                undo.insert(0, apply_stacked(edits, targets, one.treatment.name, undoable=stage == Stage.EVALUATION))
        return undo

    def follow(self, step: int, targets: StackedTargets, activations: Mapping[str, Tensor], rate: float) -> None:
        """Update the state of treatments of stage "evaluation" after a step."""
        self._before = {}
        for one in self.applied:
            if one.treatment.stage == Stage.EVALUATION and one.treatment.due(step):
                with torch.no_grad():
                    view = self._view(one, targets, activations, rate, step)
                    one.state = one.treatment.follow(view, one.state, one.knobs)

    def _view(
        self,
        one: StackedTreatment,
        targets: StackedTargets,
        activations: Mapping[str, Tensor],
        rate: float,
        step: int,
        labels: Tensor | None = None,
    ) -> View:
        reads = one.treatment.reads
        buffered = self.traced.units or one.treatment.stage == Stage.EVALUATION
        return View(
            step=step,
            parameters={n: p.detach() for n, p in targets.parameters.items()},
            buffers=targets.buffers if buffered else {},
            gradients=targets.gradients if Reading.GRADIENTS in reads else {},
            before=self._before if Reading.UPDATES in reads else {},
            initial=self.traced.initial,
            units=self.traced.units,
            activations=activations if Reading.ACTIVATIONS in reads else {},
            fresh=self.traced.fresh,
            norms=self.traced.norms,
            draw=Draw(self.seeds, (one.treatment.name, "", step)),
            learning_rate=rate,
            task=self.task,
            targets=labels,
            outputs=None if targets.outputs is None else targets.outputs.detach(),
        )

    def state_dict(self) -> dict[str, Any]:
        """State and knobs of every treatment."""
        return {
            "task": self.task,
            "begun": self.begun,
            "traced": self.traced.state_dict(),
            "applied": {
                one.treatment.name: {"state": dict(one.state), "knobs": dict(one.knobs)} for one in self.applied
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; the same treatments must have been given."""
        self.task, self.begun = state["task"], state["begun"]
        self.traced = TracedNetwork.from_state(state["traced"])
        names = {one.treatment.name for one in self.applied}
        if names != set(state["applied"]):
            raise BadInput(f"fleet: saved with treatments {sorted(state['applied'])}, loaded with {sorted(names)}")
        for one in self.applied:
            saved = state["applied"][one.treatment.name]
            one.state, one.knobs = dict(saved["state"]), dict(saved["knobs"])


def _ordered(treatments: Sequence[Treatment]) -> list[Treatment]:
    """Those that replace the update first; then each behind those that it names in `after`."""
    rest = sorted(treatments, key=lambda each: Reading.UPDATES not in each.reads)
    done: list[Treatment] = []
    while rest:
        waiting = {each.name for each in rest}
        at = next((i for i, each in enumerate(rest) if not waiting.intersection(each.after)), 0)
        done.append(rest.pop(at))
    return done
