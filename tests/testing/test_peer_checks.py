"""The checks that peers are put to: each notices its own mistake, none cries wolf, and our methods stand them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.peers.grid import CHECKS, put  # noqa: E402
from benchmarks.peers.method import Outcome  # noqa: E402
from benchmarks.peers.own import METHODS, OwnContinualBackprop  # noqa: E402
from benchmarks.peers.run import page  # noqa: E402
from benchmarks.peers.wrong import MISTAKES, Orphans, Plain  # noqa: E402

BY_NAME = {check.name: check for check in CHECKS}
GOOD = (Outcome.PASS, Outcome.NOT_APPLICABLE)


def test_every_check_has_a_mistake_that_it_must_notice() -> None:
    assert {name for names in MISTAKES.values() for name in names} == set(BY_NAME)


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "new-parameters"])
def test_a_right_method_passes(name: str) -> None:
    outcome = put(BY_NAME[name], Plain())
    assert outcome.result == Outcome.PASS, outcome.evidence


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_noticed(mistake: str) -> None:
    method = Orphans() if mistake == "orphans" else Plain(mistake)
    for name in MISTAKES[mistake]:
        outcome = put(BY_NAME[name], method)
        noticed = (Outcome.FAIL, Outcome.RAISES) if name == "pickles" else (Outcome.FAIL,)
        assert outcome.result in noticed, f"{name}: {outcome.result}, {outcome.evidence}"


def test_the_page_shows_the_recorded_answers() -> None:
    report = json.loads((ROOT / "benchmarks/peers/results.json").read_text())
    assert page(report) in (ROOT / "docs/peers.md").read_text()
    assert all(set(entry["checks"]) == set(BY_NAME) for entry in report["methods"])


def pairs():
    """Every method with every check of its kind; a third of the pairs, with each method and each check, is fast."""
    for i, method in enumerate(METHODS):
        for j, check in enumerate(CHECKS):
            if method.kind in check.kinds:
                rest = (i + j) % 3 != 0
                yield pytest.param(
                    method, check.name, id=f"{method.__name__}-{check.name}", marks=[pytest.mark.thorough] * rest
                )


@pytest.mark.parametrize(("method", "name"), list(pairs()))
def test_our_own_methods(method: type, name: str) -> None:
    outcome = put(BY_NAME[name], method())
    assert outcome.result in GOOD, outcome.evidence


def test_attention_values_are_paired_when_asked_for() -> None:
    class Linear(OwnContinualBackprop):
        text = f"{OwnContinualBackprop.text},linear=True"

    outcome = put(BY_NAME["attention"], Linear())
    assert outcome.result == Outcome.PASS and ", v " in outcome.evidence, outcome.evidence
