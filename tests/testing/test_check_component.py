"""`check_component` finds what is wrong: every law is broken once, on purpose, and says so."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from homeostat.controllers import PI, laws
from homeostat.core.component import _REGISTRY, Cite, Component
from homeostat.core.edits import AddValues, SetValues
from homeostat.core.errors import BadInput, UnknownName
from homeostat.testing.check import check_component, run_laws
from homeostat.treatments import ContinualBackprop, L2Init


@pytest.fixture(autouse=True)
def _registry_is_left_as_it_was():
    kept = {kind: dict(names) for kind, names in _REGISTRY.items()}
    yield
    _REGISTRY.clear()
    _REGISTRY.update(kept)


def broken(component: Component, *only: str) -> dict[str, str]:
    """The laws the component breaks, looking at some only (the others cost time)."""
    from homeostat.testing.controller_laws import laws_for_controller
    from homeostat.testing.treatment_laws import laws_for_treatment

    make = laws_for_treatment if component.kind == "treatment" else laws_for_controller
    chosen = [(name, law) for name, law in make(component) if name in only]  # type: ignore[arg-type]
    assert len(chosen) == len(only), "no such law"
    return run_laws(component.name, chosen, {}).failed


def test_the_report_sorts_kept_failed_declared_and_stale():
    def wrong() -> None:
        raise AssertionError("it is wrong")

    def crash() -> None:
        raise ZeroDivisionError("oops")

    checks = [("fine", lambda: None), ("bad", wrong), ("crash", crash), ("known", wrong), ("stale", lambda: None)]
    report = run_laws("x", checks, {"known": "because", "stale": "was once", "typo": "never"})
    assert report.passed == ["fine"]
    assert report.declared == {"known": "because"}
    assert report.failed["bad"] == "it is wrong"
    assert report.failed["crash"] == "ZeroDivisionError: oops"
    assert "remove the declaration" in report.failed["stale"]
    assert "no such law" in report.failed["typo"]
    assert not report.ok and "FAILED    bad: it is wrong" in str(report)


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(BadInput, match="component"):
        check_component(3)  # type: ignore[arg-type]

    @dataclass(frozen=True, kw_only=True)
    class Strange(Component):
        kind = "strange"

    with pytest.raises(UnknownName, match="strange"):
        check_component(Strange)


def test_a_bare_component_is_told_what_is_missing():
    @dataclass(frozen=True, kw_only=True)
    class Bare(PI):
        cite = ()  # type: ignore[assignment]

    failed = broken(Bare(), "cites a source", "has docs and an example")
    assert set(failed) == {"cites a source", "has docs and an example"}


@dataclass(frozen=True, kw_only=True)
class NotReset(ContinualBackprop):
    """Forgets the outgoing weights."""

    name = "mutant-not-reset"
    cite = Cite("Nobody", 2000, "Nothing")

    def plan(self, view, state, knobs):
        edits, state = super().plan(view, state, knobs)
        columns = {axis.name for g in view.units for axis in g.columns} - {g.weight.name for g in view.units}
        return [e for e in edits if e.target not in columns], state

    def effect(self, before, edits, after):
        last = before.units[-1]
        reset = any(e.target == last.weight.name for e in edits)
        columns = after.parameters[last.columns[0].name]
        return "no column is zero" if reset and not bool((columns == 0).all(0).any()) else None


class Mutants:
    """Treatments with one thing wrong each."""

    @staticmethod
    def of(change, base: type = ContinualBackprop, **facts: Any):
        @dataclass(frozen=True, kw_only=True)
        class Mutant(base):
            calls: list = field(default_factory=list, compare=False)

            def plan(self, view, state, knobs: Mapping):
                return change(self, view, *super().plan(view, state, knobs))

        return Mutant(**facts)


def _global_random(self, view, edits, state):
    torch.rand(1)
    return edits, state


def _counts_calls(self, view, edits, state):
    self.calls.append(1)
    return [replace(e, value=e.value + len(self.calls)) if isinstance(e, SetValues) else e for e in edits], state


def _writes_to_view(self, view, edits, state):
    next(iter(view.parameters.values())).add_(1.0)
    return edits, state


def _always_moves(self, view, edits, state):
    name = next(iter(view.parameters))
    return [*edits, AddValues(name, torch.full_like(view.parameters[name], 1e-3))], state


def _no_clearing(self, view, edits, state):
    return [e for e in edits if isinstance(e, SetValues)], state


def _leaves_units_silent(self, view, edits, state):
    zeroed = [replace(e, value=torch.zeros_like(e.value)) if isinstance(e, SetValues) else e for e in edits]
    return [e for e in zeroed if not isinstance(e, AddValues)], state


def _blind_fold(self, view, edits, state):
    return [
        replace(e, value=e.value + 0.1) if isinstance(e, SetValues) and e.units is not None else e for e in edits
    ] + [AddValues(view.units[-1].consumer_biases[0], torch.tensor(0.01)) for _ in edits[:1]], state


def _forgets(self, view, edits, state):
    return edits, {key: value for key, value in state.items() if not key.endswith("age")} if view.step > 5 else state


def _half_state(self, view, edits, state):
    return edits, {key: value.half() for key, value in state.items()}


def _mixes_replicas(self, view, edits, state):
    return edits, {key: value + value.mean() for key, value in state.items()}


def _explodes(self, view, edits, state):
    name = next(iter(view.parameters))
    return [AddValues(name, 3 * view.parameters[name].abs() + 1)], state


@pytest.mark.parametrize(
    ("change", "law"),
    [
        (_global_random, "pure"),
        (_counts_calls, "pure"),
        (_writes_to_view, "pure"),
        (_always_moves, "identity"),
        (_blind_fold, "function preserved"),
        (_forgets, "state"),
        (_half_state, "dtypes"),
        (_mixes_replicas, "lifts"),
        (_explodes, "finite"),
        (_no_clearing, "moments cleared"),
        (_leaves_units_silent, "learns again"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_treatment_with_one_thing_wrong_breaks_the_law(change, law: str):
    assert law in broken(Mutants.of(change), law)


def test_a_treatment_that_does_not_reset_what_it_promised_is_found():
    assert "no column is zero" in broken(NotReset(), "effect")["effect"]


def test_a_treatment_that_never_acts_is_found():
    idle = Mutants.of(lambda self, view, edits, state: ([], state), L2Init)
    assert set(broken(idle, "acts")) == {"acts"}


def test_hidden_memory_breaks_resume():
    memory: list[int] = []

    def counting(self, view, edits, state):
        memory.append(1)
        name = next(iter(view.gradients))
        return [replace(e, value=e.value * len(memory)) if e.target == name else e for e in edits], state

    assert set(broken(Mutants.of(counting, L2Init), "resume")) == {"resume"}


def test_accepting_a_network_without_units_is_found():
    from homeostat.core.errors import Refused

    @dataclass(frozen=True, kw_only=True)
    class Lenient(ContinualBackprop):
        def plan(self, view, state, knobs):
            try:
                return super().plan(view, state, knobs)
            except Refused:
                return [], state

        def init(self, view, knobs):
            return super().init(view, knobs) if view.units else {}

    assert set(broken(Lenient(), "refuses")) == {"refuses"}


def _controller(law):
    @dataclass(frozen=True, kw_only=True)
    class Mutant(PI):
        def law(self, error, state, settings):
            return law(error, state, settings)

    return Mutant()


def _winds_up(error, state, gains):
    total = state["base"] + torch.where(torch.isfinite(error), error, 0.0)
    value = total.clamp(gains["low"], gains["high"])
    return value, {**state, "base": total, "value": value}


def _unlimited(error, state, gains):
    value = state["value"] + torch.where(torch.isfinite(error), error, 0.0)
    return value, {**state, "value": value}


def _treats_missing_as_zero(error, state, gains):
    return laws.pi(torch.where(torch.isfinite(error), error, 0.0), state, gains)


def _backwards(error, state, gains):
    return laws.pi(-error, state, gains)


def _jumps(error, state, gains):
    return laws.pi(error + 0.2, state, gains)


def _writes(error, state, gains):
    state["value"].add_(0.001)
    return laws.pi(error, state, gains)


def _averages(error, state, gains):
    return laws.pi(error.nanmean().expand(error.shape), state, gains)


@pytest.mark.parametrize(
    ("law", "name"),
    [
        (_winds_up, "no windup"),
        (_unlimited, "bounded"),
        (_treats_missing_as_zero, "missing holds"),
        (_backwards, "direction"),
        (_backwards, "settles"),
        (_jumps, "bumpless"),
        (_writes, "pure"),
        (_averages, "replicas"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_controller_with_one_thing_wrong_breaks_the_law(law, name: str):
    assert name in broken(_controller(law), name)
