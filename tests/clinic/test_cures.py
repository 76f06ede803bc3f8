"""Treated programs: their texts, and what counts as cured or harmed."""

from __future__ import annotations

import difflib

import pytest

from homeostat.clinic.cures import (
    CLOSED_LOOP,
    HEALTHY_ARMS,
    NOTHING,
    RANDOM,
    RESTART,
    TWIN,
    Treated,
    cure_rates,
    run,
    treatable,
)
from homeostat.clinic.programs import programs
from homeostat.clinic.store import Result, Store

SOME = treatable(programs(60))
SICK = next(p for p in SOME if p.change.name == "dead-biases")
WELL = next(p for p in SOME if not p.change.sick)


def outcome(last: float | None, first: float = 1.0, **more: object) -> Result:
    return Result("", "", "finished", truth={"first": first, "last": last, **more})


def treated(nothing: float, loop: float | None, twin: float = 0.1) -> Treated:
    seen = {"onset": 0, "seen": 1.0}
    arms = {NOTHING: outcome(nothing, **seen), CLOSED_LOOP: outcome(loop), TWIN: outcome(twin)}
    return Treated(SICK, {**arms, RANDOM: outcome(nothing), RESTART: outcome(float("nan"))})


@pytest.mark.parametrize(("last", "cured"), [(0.05, 1), (0.14, 1), (0.15, 0), (float("nan"), 0), (None, 0)])
def test_cured_is_the_twins_loss_up_to_a_share_of_its_gain(last, cured):
    found = cure_rates([treated(0.9, last)])
    assert found["cured"][CLOSED_LOOP]["count"] == cured == found["conditions"]["dormant-units"][CLOSED_LOOP]["count"]
    assert found["cured"][NOTHING]["count"] == found["cured"][RESTART]["count"] == 0


def test_what_did_no_harm_needs_no_cure_and_a_twin_that_did_not_learn_is_no_goal():
    assert cure_rates([treated(0.1, 0.1)])["hurt"] == 0
    assert cure_rates([treated(1.0, 0.1, twin=0.99)])["sick"] == 0


def test_harm_is_a_higher_loss_than_without_treatment():
    pairs = [(0.2, 0.2), (0.2, 0.5), (0.2, 0.1)]
    cases = [Treated(WELL, {NOTHING: outcome(a), CLOSED_LOOP: outcome(b)}) for a, b in pairs]
    found = cure_rates(cases)
    assert (found["healthy"], found["harmed"]["count"], found["treated healthy"]["count"]) == (3, 1, 2)


def test_a_twin_differs_from_its_program_by_the_fault_alone():
    lines = [text.splitlines() for text in (SICK.texts()[0], SICK.twin()[0])]
    added = [line[2:].strip() for line in difflib.ndiff(*lines) if line.startswith("+ ")]
    assert all("TRUTH" in line or "onset" in line for line in added)
    assert "bias.fill_" in SICK.texts()[0] and "bias.fill_" not in SICK.twin()[0]


@pytest.mark.slow
def test_arms_are_run_once(tmp_path):
    case, store = run([WELL], Store(tmp_path))[0], list(Store(tmp_path))
    assert set(case.arms) == set(HEALTHY_ARMS) and len(store) == len(HEALTHY_ARMS)
    assert case.clear and case.reaches(CLOSED_LOOP, NOTHING)
    assert run([WELL], Store(tmp_path))[0].arms.keys() == case.arms.keys() and len(list(Store(tmp_path))) == len(store)
