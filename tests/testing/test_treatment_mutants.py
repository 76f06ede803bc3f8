"""Every law of a treatment is broken once, on purpose, and says so."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from mutants import unregistered, untested, wrong
from torch import Tensor, nn

from homeostat.core.component import knob
from homeostat.core.edits import AddValues, ReplaceModule, SetValues
from homeostat.core.errors import Refused
from homeostat.core.treatment import Stage
from homeostat.testing.check import check_component
from homeostat.treatments import Classp, ContinualBackprop, L2Init

_calls = itertools.count(1)


def mutant(change: Callable[..., Any] | None = None, base: type = ContinualBackprop, **members: Any) -> Any:
    """A treatment whose plan is changed: change(view, edits, state) -> (edits, state)."""
    if change is not None:

        def plan(self, view, state, knobs):
            return change(view, *base.plan(self, view, state, knobs))

        members["plan"] = plan
    return unregistered(base, **members)()


def global_random(view, edits, state):
    torch.rand(1)
    return edits, state


def counts_calls(view, edits, state):
    more = next(_calls)
    return [replace(e, value=e.value + more) if isinstance(e, SetValues) else e for e in edits], state


def writes_to_view(view, edits, state):
    next(iter(view.parameters.values())).add_(1.0)
    return edits, state


def always_moves(view, edits, state):
    name = next(iter(view.parameters))
    return [*edits, AddValues(name, torch.full_like(view.parameters[name], 1e-3))], state


def no_clearing(view, edits, state):
    return [e for e in edits if isinstance(e, SetValues)], state


def leaves_units_silent(view, edits, state):
    zeroed = [replace(e, value=torch.zeros_like(e.value)) if isinstance(e, SetValues) else e for e in edits]
    return [e for e in zeroed if not isinstance(e, AddValues)], state


def blind_fold(view, edits, state):
    moved = [replace(e, value=e.value + 0.1) if isinstance(e, SetValues) and e.units is not None else e for e in edits]
    biases = [bias for group in view.units[-1:] for bias in group.consumer_biases if bias]
    return moved + [AddValues(bias, torch.tensor(0.01)) for bias in biases[: len(edits)]], state


def forgets(view, edits, state):
    return edits, {key: value for key, value in state.items() if not key.endswith("age")} if view.step > 5 else state


def half_state(view, edits, state):
    return edits, {key: value.half() for key, value in state.items()}


def mixes_replicas(view, edits, state):
    return edits, {key: value + value.mean() for key, value in state.items()}


def explodes(view, edits, state):
    name = next(iter(view.parameters))
    return [AddValues(name, 3 * view.parameters[name].abs() + 1)], state


def not_reset(view, edits, state):
    columns = {axis.name for g in view.units for axis in g.columns} - {g.weight.name for g in view.units}
    return [e for e in edits if e.target not in columns], state


def seen_reset(self, before, edits, after):
    last = before.units[-1]
    reset = any(e.target == last.weight.name for e in edits)
    columns = after.parameters[last.columns[0].name]
    return "no column is zero" if reset and not bool((columns == 0).all(0).any()) else None


def divides_by_spread(view, edits, state):
    for layer, acts in view.activations.items():
        spread = (acts.amax(0) - acts.amin(0)).sum()
        state = {**state, f"{layer}/due": state[f"{layer}/due"] + 0 / spread}
    return edits, state


def averages_blindly(view, edits, state):
    for layer, acts in view.activations.items():
        state = {**state, f"{layer}/mean": state[f"{layer}/mean"] + 0 * acts.mean(0)}
    return edits, state


def knows_names(view, edits, state):
    assert "0.weight" in view.parameters
    return edits, state


def remembers(view, edits, state):
    """Something outside of its state decides what it does."""
    name, factor = next(iter(view.gradients)), 1 + next(_calls)
    return [replace(e, value=e.value * factor) if e.target == name else e for e in edits], state


def idle(view, edits, state):
    return [], state


def lenient(self, view, state, knobs):
    try:
        return ContinualBackprop.plan(self, view, state, knobs)
    except Refused:
        return [], state


def lenient_init(self, view, knobs):
    return ContinualBackprop.init(self, view, knobs) if view.units else {}


class Wired(nn.Linear):
    """A replacement of a layer: the same parameters, and something that should not be there."""

    passes = itertools.count(1)

    def __init__(self, old: Any, fault: str) -> None:
        super().__init__(old.in_features, old.out_features, dtype=old.weight.dtype)
        self.weight, self.bias, self.fault = old.weight, old.bias, fault
        if fault == "hook":
            self.register_forward_hook(_seen)
        if fault == "lambda":
            self.change = lambda x: x

    def forward(self, input: Tensor) -> Tensor:
        drift = 1e-3 * next(self.passes) if self.fault == "shared" and self.training else 0.0
        return super().forward(input) + drift


def _seen(*args: Any) -> None:
    """A hook that does nothing."""


def replacing(fault: str) -> Any:
    def plan(self, view, state, knobs):
        return [ReplaceModule("0", lambda old: Wired(old, fault))], state

    return mutant(base=L2Init, plan=plan, stage=Stage.MODULES)


MUTANTS = {
    "cites a source": mutant(cite=()),
    "documented": mutant(__doc__="A treatment."),
    "has an example": mutant(__doc__="Replace a small fraction of the least useful mature units at every single step."),
    "knobs have sources": mutant(extra=knob(0.1), __annotations__={"extra": float}),
    "settings survive": mutant(settings=lambda self: {}),
    "settings are plain": mutant(settings=lambda self: {"fold": torch.zeros(())}),
    "declares with reasons": mutant(declared={"pure": "unsure"}),
    "stage and optimizer state stated": mutant(optimizer_state=""),
    "identity": mutant(always_moves),
    "acts": mutant(idle, L2Init),
    "effect": mutant(not_reset, effect=seen_reset),
    "finite": mutant(explodes),
    "pure": mutant(global_random),
    "moments cleared": mutant(no_clearing),
    "function preserved": mutant(blind_fold),
    "learns again": mutant(leaves_units_silent),
    "dtypes": mutant(half_state),
    "state": mutant(forgets),
    "resume": mutant(remembers, L2Init),
    "lifts": mutant(mixes_replicas),
    "refuses": mutant(plan=lenient, init=lenient_init),
    "treats when attached": mutant(idle, L2Init),
    "one trajectory": mutant(remembers, L2Init),
    "resumes when attached": mutant(remembers, L2Init),
    "usable while treated": replacing("lambda"),
    "copies are left alone": replacing("shared"),
    "no trace": replacing("hook"),
    "awkward batches": mutant(divides_by_spread),
    "NaN batch": mutant(averages_blindly),
    "any network": mutant(knows_names),
}


def test_every_law_has_a_mutant():
    assert untested("treatment", MUTANTS) == {"resumes in another process"}


@pytest.mark.parametrize("law", MUTANTS)
def test_a_law_catches_what_breaks_it(law):
    assert wrong(MUTANTS[law], law)


@pytest.mark.parametrize("change", [counts_calls, writes_to_view], ids=lambda change: change.__name__)
def test_other_impurities_are_caught(change):
    assert wrong(mutant(change), "pure")


def test_weights_before_the_update_are_not_written_to():
    def writes(view, edits, state):
        next(iter(view.before.values())).add_(1.0)
        return edits, state

    assert "of the view's before" in wrong(mutant(writes, Classp), "pure")


def test_what_is_wrong_is_the_reason_given():
    assert "pickle" in wrong(MUTANTS["usable while treated"], "usable while treated").lower()
    assert "hooks are left" in wrong(MUTANTS["no trace"], "no trace")
    assert "deep copy" in wrong(MUTANTS["copies are left alone"], "copies are left alone")
    assert "0.weight" not in wrong(mutant(base=L2Init), "any network")


@pytest.mark.slow
def test_hidden_memory_does_not_reach_another_process():
    report = check_component(MUTANTS["resume"], only=["resumes in another process"], thorough=True)
    assert set(report.failed) == {"resumes in another process"}
