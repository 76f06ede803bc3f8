"""Every law of a vital is broken once, on purpose, and says so."""

import random
from typing import Any

import pytest
import torch
from mutants import unregistered, untested, wrong

from homeostat.core.component import Cite, knob
from homeostat.core.snapshot import Readings
from homeostat.testing.check import check_component
from homeostat.vitals import DormantUnits, GradientNorm, TwinDistance


def mutant(base: type = DormantUnits, **members: Any) -> Any:
    return unregistered(base, **members)()


def writes(self: Any, readings: Readings) -> Any:
    for h in readings.activations.values():
        h.mul_(2)
    return DormantUnits.measure(self, readings)


def draws(self: Any, readings: Readings) -> Any:
    torch.rand(1)
    return DormantUnits.measure(self, readings)


def writes_twin(self: Any, readings: Readings) -> Any:
    if readings.twin is not None:
        for w in readings.twin.other.values():
            w.add_(1)
    return TwinDistance.measure(self, readings)


def draws_python(self: Any, readings: Readings) -> Any:
    random.random()
    return DormantUnits.measure(self, readings)


def total(self: Any, fields: Any) -> Any:
    return fields["magnitude"].sum(-1)


def overflows(self: Any, h: Any, nonlinearity: str) -> Any:
    return {"magnitude": (300 * h).square().sum(-2)}


def zeros(self: Any, partials: Any) -> Any:
    return {layer: fields["magnitude"].sum(-1) * 0 for layer, fields in partials.items()}


def nothing(self: Any, partials: Any) -> Any:
    return {layer: fields["magnitude"].sum(-1) * torch.nan for layer, fields in partials.items()}


def invents(self: Any, partials: Any) -> Any:
    return {**DormantUnits.finish(self, partials), "fc2": torch.tensor(0.5)}


def layout(self: Any, readings: Readings) -> Any:
    tidy = all(h.is_contiguous() for h in readings.activations.values())
    return DormantUnits.measure(self, readings) if tidy else {}


MUTANTS = {
    "cites a source": mutant(cite=Cite("", 0, "")),
    "documented": mutant(__doc__="Too short. >>> 1"),
    "has an example": mutant(__doc__="The share of units that are dormant, told at length but without showing how."),
    "knobs have sources": mutant(tau=knob(0.1, unit="share"), __annotations__={"tau": float}),
    "settings survive": mutant(settings=lambda self: {"tau": 0.5}),
    "declares with reasons": mutant(declared={"bounded": "no"}),
    "settings are plain": mutant(settings=lambda self: {"tau": [0.1]}),
    "states its range, unit and reducers": mutant(GradientNorm, reducers={}),
    "measures a healthy step": mutant(finish=nothing),
    "names its layers": mutant(finish=invents),
    "bounded": mutant(value=total),
    "missing, never 0": mutant(finish=zeros),
    "dead is not healthy": mutant(finish=zeros),
    "composable": mutant(value=total, reducers={"samples": "sum", "magnitude": "max"}),
    "pure": mutant(measure=writes),
    "any dtype": mutant(value=total, partial=overflows),
    "any layout": mutant(measure=layout),
    "replicas": mutant(value=lambda self, f: f["magnitude"].mean() + 0 * f["magnitude"].sum(-1)),
    "invariant: units": mutant(value=lambda self, f: f["magnitude"][..., 0]),
    "invariant: samples": mutant(partial=lambda self, h, nonlinearity: {"magnitude": h[..., 0, :]}, value=total),
    "invariant: scale": mutant(value=total),
    "invariant: rotation": mutant(value=total, invariant=frozenset({"rotation"})),
    "transparent": mutant(measure=draws),
}


def test_every_law_has_a_mutant():
    assert not untested("vital", MUTANTS)


@pytest.mark.parametrize("law", MUTANTS)
def test_a_law_catches_what_breaks_it(law):
    assert wrong(MUTANTS[law], law)


def test_the_unchanged_vital_breaks_none():
    report = check_component(mutant())
    assert report.ok, str(report)


def test_draws_from_any_global_stream_are_caught():
    assert "random" in wrong(mutant(measure=draws), "pure")
    assert "Python" in wrong(mutant(measure=draws_python), "transparent")


@pytest.mark.parametrize("law", ["pure", "transparent"])
def test_a_changed_twin_is_caught(law):
    assert "twin" in wrong(mutant(TwinDistance, measure=writes_twin), law)
