"""Every law of a condition and of a study is broken once, on purpose, and says so."""

import dataclasses
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from mutants import unregistered, untested, wrong

from homeostat.core.component import Cite, find, knob
from homeostat.diagnosis import Condition, Remedy, Sign
from homeostat.diagnosis.condition import LayerCondition, graded
from homeostat.diagnosis.thresholds import limit, measured
from homeostat.testing.check import check_component

BASE: Any = find("condition", "dormant-units")
STUDY: Any = find("study", "continual-backprop")
_calls = itertools.count()


def mutant(settings: dict[str, Any] | None = None, **members: Any) -> Any:
    return unregistered(BASE, **members)(**(settings or {}))


def always(self: Any, history: Any, facts: Any) -> Any:
    return {"fc1": Sign("info", "something is wrong with fc1")}


def signs(change: Any) -> Any:
    """The signs of the unchanged rule, each changed."""
    return lambda self, history, facts: {
        layer: change(sign) for layer, sign in BASE.signs(self, history, facts).items()
    }


def milder_when_worse(sign: Sign) -> Sign:
    return dataclasses.replace(sign, severity="warning" if sign.severity == "info" else "info")


def with_number(number: Any) -> Any:
    return signs(lambda sign: dataclasses.replace(sign, numbers={"share": number}))


def writes(self: Any, history: Any, facts: Any) -> Any:
    history.boundary(int(history.clock(self.reads)), "mine")
    return BASE.signs(self, history, facts)


def casts(self: Any, history: Any, facts: Any) -> Any:
    for layer in history.layers("dormant-units"):
        int(sum(history.series("dormant-units", layer)[1]))
    return BASE.signs(self, history, facts)


def invents(self: Any, history: Any, facts: Any) -> Any:
    return {f"{layer}.copy": sign for layer, sign in BASE.signs(self, history, facts).items()}


def moody(self: Any, history: Any, facts: Any) -> Any:
    return BASE.signs(self, history, facts) if next(_calls) % 3 else {}


CONDITIONS = {
    "cites a source": mutant(cite=()),
    "documented": mutant(__doc__="A condition."),
    "knobs have sources": mutant(extra=knob(0.1), __annotations__={"extra": float}),
    "settings survive": unregistered(BASE, settings=lambda self: {})(),
    "declares with reasons": mutant(declared={"pure": ""}),
    "explains itself": mutant(explanation="Bad."),
    "silent without evidence": mutant(signs=always),
    "silent on health": mutant({"info": 0.01}),
    "speaks": mutant(signs=lambda self, history, facts: {}),
    "severity is monotone": mutant(signs=signs(milder_when_worse)),
    "eases": mutant(eased=lambda self: dataclasses.replace(self, info=0.99, warning=0.99, critical=0.995)),
    "pure": mutant(signs=writes),
    "nonsense-proof": mutant(signs=casts),
    "names layers that exist": mutant(signs=invents),
    "JSON": mutant(signs=with_number(float("nan"))),
    "resumable": mutant(signs=moody),
}


def test_every_law_of_a_condition_has_a_mutant():
    assert not untested("condition", CONDITIONS)


@pytest.mark.parametrize("law", CONDITIONS)
def test_a_law_catches_what_breaks_it(law):
    assert wrong(CONDITIONS[law], law)


def test_the_unchanged_condition_breaks_none():
    report = check_component(mutant())
    assert report.ok, str(report)


def test_a_condition_on_vitals_of_its_own_is_not_said_to_be_silent():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(Condition, abstract=True):
        reads = ("my-own-vital",)
        name = "own"

        def signs(self, history: Any, facts: Any) -> dict[str, Sign]:
            return {}

    report = check_component(Own(), only=["speaks", "severity is monotone"])
    assert not report.failed
    assert "my-own-vital" in report.skipped["speaks"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cold(LayerCondition, abstract=True):
    """The temperature of a layer (median of the last 3 readings) is low: a condition as one file would define it."""

    name = "cold"
    cite = Cite("Somebody", 2024, "Temperature")
    reads = ("temperature",)
    explanation = "The layer has gone cold, and what is cold does not learn anything new."
    remedies = (Remedy("warm it up", ("l2-init:strength=1e-3",)),)
    examples = {"going cold": lambda t, ill: [("temperature", "fc1", 37.0 - 30.0 * ill * t)]}  # noqa: RUF012
    info: float = limit(30.0, "policy: well below what is normal", ease=1.1)
    warning: float = measured((25.0, 20.0), ease=1.1)

    def sign(self, layer: str, values: Any, facts: Any) -> Sign | None:
        severity = graded(float(values[-1]), self.limits(), "lower")
        return Sign(severity, f"{layer} is cold", {"now": float(values[-1])}) if severity else None


def test_a_condition_needs_nothing_but_its_own_class():
    report = check_component(Cold())
    assert report.ok, str(report)
    assert Cold().warning == 25.0 and "not measured" in Cold.knob_specs()["warning"].source
    assert Cold().finding({"fc1": Sign("info", "cold")}, 0).prescriptions[0].treatment == "l2-init:strength=1e-3"


def study(**members: Any) -> Any:
    return unregistered(STUDY, **members)()


STUDIES = {
    "cites a source": study(cite=()),
    "documented": study(__doc__="A study."),
    "knobs have sources": study(extra=knob(0.1), __annotations__={"extra": float}),
    "settings survive": study(settings=lambda self: {}),
    "declares with reasons": study(declared={"budgets": "no"}),
    "states its claim": study(claim="It works."),
    "expects beforehand": study(expectations=()),
    "budgets": study(budgets={"smoke": {}}),
    "preconditions": study(preconditions=(dataclasses.replace(STUDY.preconditions[0], arms=tuple(STUDY.arms)),)),
    "tuning": study(tune=SimpleNamespace(tried={"another arm": ({},)})),
}


def test_every_law_of_a_study_has_a_mutant():
    assert not untested("study", STUDIES)


@pytest.mark.parametrize("law", STUDIES)
def test_a_law_catches_a_broken_study(law):
    assert wrong(STUDIES[law], law)
