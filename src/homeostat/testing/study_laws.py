"""The laws of a study. They do not test its claim; running the study does."""

from __future__ import annotations

from typing import Any

from homeostat.core.component import Component
from homeostat.testing import common_laws as facts
from homeostat.testing.binding import Check, bound, statements
from homeostat.testing.law import Law


def laws_for(study: Component, thorough: bool = False) -> list[Law]:
    """Every law that a study must satisfy."""
    return bound(TABLE, lambda: study)


def laws_of_kind() -> dict[str, str]:
    """Name -> statement of every law of a study."""
    return statements(TABLE)


def _states_its_claim(study: Any) -> None:
    """It states its claim, what was tuned on which seeds, and describes its arms."""
    assert len(study.claim.split()) >= 6, "the claim is not a sentence"
    assert study.tuning.strip(), "it does not state what was tuned"
    assert len(study.arms) >= 2, "a claim is tested by comparing at least two arms"
    assert all(text.strip() for text in study.arms.values()), "an arm is not described"


def _expects_beforehand(study: Any) -> None:
    """It has expectations, each with a sentence and a threshold; one or two are primary, with a margin and a reason."""
    assert study.expectations, "no expectation is stated, so it cannot fail"
    for expectation in study.expectations:
        assert len(expectation.says.split()) >= 4, f"{expectation.says!r} is not a sentence"
        assert callable(expectation.effect), f"{expectation.says!r}: its effect cannot be computed"
    deciding = [e for e in study.expectations if e.primary]
    assert len(deciding) in (1, 2), f"{len(deciding)} of its expectations are primary, not one or two"
    assert all(e.margin > 0 for e in deciding), "a primary expectation has no margin, so no effect can be excluded"
    assert study.because.strip(), "it does not say why the primary expectation is the primary one"


def _preconditions(study: Any) -> None:
    """Its preconditions have a sentence and name arms of the study, but not all of them."""
    for precondition in study.preconditions:
        assert len(precondition.says.split()) >= 4, f"{precondition.says!r} is not a sentence"
        arms = set(precondition.arms)
        assert arms and arms < set(study.arms), f"{precondition.says!r} needs the arms {sorted(arms)}"


def _budgets(study: Any) -> None:
    """It has a smoke and a paper budget, and enough seeds, none of which are development seeds."""
    assert {"smoke", "paper"} <= set(study.budgets), f"its budgets are {sorted(study.budgets)}"
    judged = study.seeds("paper")
    assert len(judged) >= 10, f"a verdict from {len(judged)} seeds is no more than one look"
    assert judged[-1] < 1000, "its judged seeds reach into the development seeds"
    assert len(study.seeds("smoke")) >= 1, "the smoke budget runs no seed"


def _tuning(study: Any) -> None:
    """What the harness tunes are arms of the study."""
    if study.tune is not None:
        assert set(study.tune.tried) <= set(study.arms), "it tunes an arm that it does not have"


TABLE: dict[str, Check] = {
    **facts.without_example(),
    "states its claim": _states_its_claim,
    "expects beforehand": _expects_beforehand,
    "preconditions": _preconditions,
    "budgets": _budgets,
    "tuning": _tuning,
}
"""Every law of a study."""
