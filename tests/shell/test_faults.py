"""Whatever fails inside Homeostat: training goes on, bit for bit as without it, and it is said what failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from faulty_loop import STEPS, Loop, same
from torch import nn

import homeostat
from homeostat.core import component
from homeostat.core.component import Cite
from homeostat.core.edits import AddGradient, ReplaceModule, SetValues
from homeostat.core.snapshot import Reading
from homeostat.core.treatment import Stage, Treatment
from homeostat.core.vital import Vital

CITE = Cite("Nobody", 2000, "A test", "2000.00000")


@pytest.fixture(autouse=True)
def no_component_stays(monkeypatch):
    component.discover()
    monkeypatch.setattr(component, "REGISTRY", {kind: dict(named) for kind, named in component.REGISTRY.items()})


# ---- vitals


def vital(behaviour: str):
    """A vital of that behaviour, registered for one test."""

    @dataclass(frozen=True, kw_only=True)
    class Faulty(Vital):
        name: ClassVar[str] = "faulty"
        cite: ClassVar = CITE
        reads: ClassVar = frozenset({Reading.WEIGHTS})
        calls: ClassVar[list[int]] = []

        def __call__(self, readings):
            self.calls.append(readings.step)
            good = {"0": torch.tensor(1.0)}
            bad = {
                "wide": {"0": torch.ones(2, 3)},
                "number": {"0": 1.0},
                "complex": {"0": torch.tensor(1j)},
                "list": [1.0],
                "half": {"0": torch.tensor(1.0), "3": torch.ones(4)},
            }
            if behaviour in ("at once", "always") or (behaviour == "later" and readings.step >= 5):
                raise ZeroDivisionError("no such luck")
            return bad.get(behaviour, good)

    return Faulty


@pytest.mark.parametrize("behaviour", ["at once", "later", "wide", "number", "complex", "list", "half"])
def test_a_vital_that_fails_is_told_once_and_let_go(behaviour, twin):
    cls = vital(behaviour)
    with pytest.warns(RuntimeWarning, match=r"faulty is not measured any more.*training goes on") as said:
        loop = Loop(vitals=["loss", "faulty"])
        loop.go()
    assert same(loop.end(), twin) and len(said) == 1
    assert loop.run is not None and "internal error" in loop.run.not_measured()["faulty"]
    assert len(loop.run.vitals()["loss"]["network"]) == STEPS
    assert len(loop.run.vitals().get("faulty", {}).get("0", ())) == (4 if behaviour == "later" else 0)
    assert len(cls.calls) == (5 if behaviour == "later" else 1)


# ---- treatments


def treatment(behaviour: str, at: Stage = Stage.UPDATE):
    """A treatment that does nothing for three steps and then fails in its way."""

    @dataclass(frozen=True, kw_only=True)
    class Faulty(Treatment):
        name: ClassVar[str] = "faulty"
        cite: ClassVar = CITE
        stage: ClassVar = at

        def init(self, view, knobs):
            if behaviour == "init":
                raise ZeroDivisionError("no such luck")
            return {}

        def plan(self, view, state, knobs):
            weight, bias = view.parameters["0.weight"], view.parameters["3.bias"]
            if view.step < 4:
                return [], state
            good = [SetValues("0.weight", torch.zeros_like(weight)), SetValues("3.bias", torch.ones_like(bias))]
            if at == Stage.GRADIENT:
                good = [AddGradient("0.weight", torch.ones_like(weight)), AddGradient("3.bias", torch.ones_like(bias))]
            if behaviour == "plan":
                raise KeyError("5.weight")
            wrong = {
                "shape": SetValues("5.weight", torch.zeros(7, 7)),
                "name": SetValues("9.weight", torch.zeros(1)),
                "nan": SetValues("5.weight", torch.full_like(view.parameters["5.weight"], torch.nan)),
                "kind": "not an edit",
                "make": ReplaceModule("3", _explode),
                "gradient shape": AddGradient("5.weight", torch.zeros(9)),
            }
            return [*good, wrong[behaviour]], state

    return Faulty


def _explode(module: nn.Module) -> nn.Module:
    raise MemoryError("no room for another")


@pytest.mark.parametrize("behaviour", ["init", "plan", "shape", "name", "nan", "kind", "make"])
def test_a_treatment_that_fails_is_rolled_back_stopped_and_told(behaviour, twin):
    treatment(behaviour)
    with pytest.warns(RuntimeWarning, match="faulty: ") as said:
        loop = Loop(treatments=["faulty"], vitals=["loss"])
        loop.go()
    assert same(loop.end(), twin) and len(said) == 1
    assert loop.run is not None
    (entry,) = [e for e in loop.run.journal() if e.action in ("error", "refuse")]
    assert ("rolled back" in entry.why) == (behaviour != "init") and entry.step == (0 if behaviour == "init" else 4)
    assert len(loop.run.vitals()["loss"]["network"]) == STEPS


@pytest.mark.parametrize("behaviour", ["plan", "gradient shape"])
def test_a_penalty_that_fails_leaves_the_gradients_as_they_were(behaviour, twin):
    treatment(behaviour, Stage.GRADIENT)
    with pytest.warns(RuntimeWarning, match=r"faulty: stopped, this step's edits rolled back"):
        loop = Loop(treatments=["faulty"], vitals=["loss"])
        loop.go()
    assert same(loop.end(), twin)


def test_one_treatment_that_cannot_begin_does_not_keep_the_others_from_it():
    treatment("init")
    with pytest.warns(RuntimeWarning, match=r"faulty: it could not begin.*ZeroDivisionError: no such luck"):
        loop = Loop(treatments=["faulty", "l2-init"], vitals=["loss"])
        loop.go()
    assert loop.run is not None and [c.name for c in loop.run._network.treatments.applied] == ["l2-init"]
    assert loop.run._network.treatments.applied[0].acted == STEPS
    loop.run.detach()


def test_a_model_that_is_let_go_while_its_optimizer_steps_on():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = homeostat.attach(model, optimizer, treatments=["redo:every=2", "l2-init"], every=1)
    weights = list(model.parameters())
    model(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    del model
    before = [w.detach().clone() for w in weights]
    for _ in range(5):
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert all(torch.allclose(w, b - 0.5) for w, b in zip(weights, before, strict=True))
    assert run.steps == 6
    run.detach()


def test_an_interrupt_in_the_middle_of_an_edit_takes_it_back_and_gets_through():
    @dataclass(frozen=True, kw_only=True)
    class Interrupted(Treatment):
        name: ClassVar[str] = "interrupted"
        cite: ClassVar = CITE
        stage: ClassVar = Stage.UPDATE

        def plan(self, view, state, knobs):
            zero = SetValues("0.weight", torch.zeros_like(view.parameters["0.weight"]))
            return [zero, ReplaceModule("3", _interrupt)], state

    loop = Loop(treatments=["interrupted"], vitals=["loss"])
    assert loop.run is not None
    with pytest.raises(KeyboardInterrupt), loop.run:
        loop.go()
    assert bool(loop.model[0].weight.any()) and loop.run._record.meta.status == "interrupted"


def _interrupt(module: nn.Module) -> nn.Module:
    raise KeyboardInterrupt
