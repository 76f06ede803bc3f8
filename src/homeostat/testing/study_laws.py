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
    """It has expectations, each with a sentence and a threshold."""
    assert study.expectations, "no expectation is stated, so it cannot fail"
    for expectation in study.expectations:
        assert len(expectation.says.split()) >= 4, f"{expectation.says!r} is not a sentence"
        assert callable(expectation.effect), f"{expectation.says!r}: its effect cannot be computed"


def _budgets(study: Any) -> None:
    """It has a smoke and a paper budget, and enough seeds for an interval."""
    assert {"smoke", "paper"} <= set(study.budgets), f"its budgets are {sorted(study.budgets)}"
    assert len(study.seeds("paper")) >= 5, f"a verdict from {len(study.seeds('paper'))} seeds has no useful interval"
    assert len(study.seeds("smoke")) >= 1, "the smoke budget runs no seed"


TABLE: dict[str, Check] = {
    **facts.without_example(),
    "states its claim": _states_its_claim,
    "expects beforehand": _expects_beforehand,
    "budgets": _budgets,
}
"""Every law of a study."""
