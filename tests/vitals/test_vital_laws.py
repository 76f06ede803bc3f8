"""Every registered vital keeps the laws, and every law catches a vital that breaks it."""

import dataclasses
import doctest
import importlib
import pkgutil
from typing import Any

import pytest
import torch

import homeostat.vitals
from homeostat.core.component import components
from homeostat.core.readings import Readings
from homeostat.testing.vital_laws import laws_for_vital
from homeostat.vitals import DormantUnits, GradientNorm

V1 = {
    "active-units",
    "dead-units",
    "dormant-units",
    "effective-rank",
    "gradient-norm",
    "loss",
    "non-finite",
    "plasticity",
    "saturated-units",
    "sharpness",
    "srank",
    "stable-rank",
    "update-ratio",
    "weight-norm",
}
CASES = [(name, law, check) for name, cls in components("vital").items() for law, check in laws_for_vital(cls())]


@pytest.mark.parametrize("name, law, check", CASES, ids=[f"{name}-{law}" for name, law, _ in CASES])
def test_law(name, law, check):
    check()


def test_the_vitals_of_the_first_release_are_registered():
    assert set(components("vital")) >= V1


def test_exports_are_sorted_and_exist():
    exported = homeostat.vitals.__all__
    assert exported == sorted(exported)
    assert all(hasattr(homeostat.vitals, name) for name in exported)


@pytest.mark.parametrize("module", [m.name for m in pkgutil.iter_modules(homeostat.vitals.__path__)])
def test_examples_in_docstrings_run(module):
    found = importlib.import_module(f"homeostat.vitals.{module}")
    assert doctest.testmod(found, extraglobs={"torch": torch}).failed == 0


def broken(base: type, **methods: Any) -> Any:
    """An unregistered vital with some methods or facts replaced."""
    cls = type("Broken", (base,), methods, abstract=True)
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)()


def writes(self: Any, readings: Readings):
    for h in readings.activations.values():
        h.mul_(2)
    return DormantUnits.measure(self, readings)


def draws(self: Any, readings: Readings):
    torch.rand(1)
    return DormantUnits.measure(self, readings)


def total(self, fields):
    return fields["magnitude"].sum(-1)


def overflows(self, h, nonlinearity):
    return {"magnitude": (300 * h).square().sum(-2)}


def zeros(self, partials):
    return {layer: fields["magnitude"].sum(-1) * 0 for layer, fields in partials.items()}


BROKEN = {
    "bounded": broken(DormantUnits, value=total),
    "missing, never 0": broken(DormantUnits, finish=zeros),
    "composable": broken(DormantUnits, value=total, reducers={"samples": "sum", "magnitude": "max"}),
    "replicas": broken(DormantUnits, value=lambda self, f: f["magnitude"].mean() + 0 * f["magnitude"].sum(-1)),
    "invariant: scale": broken(DormantUnits, value=total),
    "invariant: units": broken(DormantUnits, value=lambda self, f: f["magnitude"][..., 0]),
    "any dtype": broken(DormantUnits, value=total, partial=overflows),
    "pure": broken(DormantUnits, measure=writes),
    "states its range, unit and reducers": broken(GradientNorm, reducers={}),
    "documented": broken(DormantUnits, __doc__="Too short."),
}


@pytest.mark.parametrize("law", BROKEN)
def test_a_law_catches_what_breaks_it(law):
    check = dict(laws_for_vital(BROKEN[law]))[law]
    with pytest.raises(AssertionError):
        check()


def test_a_global_draw_is_caught():
    with pytest.raises(AssertionError, match="random"):
        dict(laws_for_vital(broken(DormantUnits, measure=draws)))["pure"]()
