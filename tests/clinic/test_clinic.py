"""The clinic: the same number is the same program, families stay on one side, and a stored run is judged as it was."""

from __future__ import annotations

import ast
from random import Random

import pytest

from homeostat.clinic.figures import Examined, clopper_pearson, figures
from homeostat.clinic.programs import ARCHITECTURES, FAMILIES, FAULTS, VARIANTS, TrainingProgram, programs
from homeostat.clinic.runner import run_program
from homeostat.clinic.split import drawn, frozen
from homeostat.clinic.store import Result, Store
from homeostat.clinic.styles import STYLES
from homeostat.core.component import components

MANY = 800


def test_a_number_is_always_the_same_program():
    few, many = programs(40), programs(80)
    assert [p.digest for p in few] == [p.digest for p in many[:40]]
    state = Random(1).getstate()
    assert few[3].texts() == many[3].texts() and Random(1).getstate() == state
    assert len({p.digest for p in many}) == len(many)


def test_every_program_is_python_with_a_last_line_that_tells_the_truth():
    for program in programs(MANY):
        text, before = program.texts()
        ast.parse(before)
        ast.parse(text)
        assert text.count("print('TRUTH', ") == 1, program.name


def test_every_fault_and_every_variant_has_programs_of_several_architectures():
    made = {(p.change.name, p.arch) for p in programs(MANY)}
    for change in (*FAULTS, *VARIANTS):
        assert sum((change.name, arch) in made for arch in change.archs) >= min(len(change.archs), 5), change.name
    assert {p.arch for p in programs(MANY)} == set(ARCHITECTURES)
    assert {p.style for p in programs(MANY)} == set(STYLES)


@pytest.mark.parametrize("style", STYLES)
def test_a_style_changes_the_layout_and_not_the_statements(style):
    change = next(f for f in FAULTS if f.name == "softmax-twice")
    program = TrainingProgram(0, change, "mlp", style, 0)
    text = program.texts()[0]
    assert "F.softmax(out, dim=-1)" in text or "F.softmax(self.out" in text
    assert text.count("loss.backward()") == 1 and text.count("torch.manual_seed(") == 1


def test_no_family_is_on_both_sides_and_none_is_missing():
    sides = frozen()
    assert list(sides.values()).count("development") == len(FAMILIES) / 2
    assert set(sides) == set(FAMILIES) and len(sides) == len(FAMILIES)
    assert sides == drawn(0) and drawn(1) != drawn(0)


def first(change: str) -> TrainingProgram:
    return next(p for p in programs(MANY) if p.change.name == change and p.arch in ("mlp", "regressor"))


def test_a_stored_run_is_judged_as_it_was_while_it_ran(tmp_path):
    program = first("growing-rate")
    live = run_program(program)
    store = Store(tmp_path)
    store.add(live)
    (stored,) = Store(tmp_path)
    again = stored.judged()
    assert live.status == "finished" and not live.failed
    assert live.truth["onset"] is not None and "non-finite" in live.live
    assert dict(again.live) == dict(live.live) and again.first == live.first
    assert not stored.judged([components("condition")["stalled-learning"]()]).live


def test_findings_stay_when_the_functions_of_the_script_have_returned():
    change = next(f for f in FAULTS if f.name == "detached")
    result = run_program(TrainingProgram(0, change, "mlp", "functions", 0))
    assert result.first[:2] == ("frozen-by-accident", "untrained-parameters")


def test_a_program_that_continues_another_finds_its_checkpoint():
    result = run_program(first("resumed"))
    assert result.status == "finished" and result.truth["began"] < 1.0


def case(change: str, live: dict, truth: dict) -> Examined:
    return Examined(first(change), Result("", "", "finished", truth=truth, steps=500, live=live))


def test_figures_count_names_consequences_and_false_alarms():
    onset, learned = {"onset": 10, "seen": 0.9, "first": 1.0, "last": 1.0}, {"first": 1.0, "last": 0.1}
    cases = [
        case("dead-biases", {"dormant-units": [30, "critical"], "stalled-learning": [200, "warning"]}, onset),
        case("dead-biases", {"stalled-learning": [200, "warning"]}, onset),
        case("dead-biases", {}, {"onset": None, "first": 1.0, "last": 1.0}),  # the fault did not take
        case("plain", {"dormant-units": [40, "warning"]}, learned),
        case("plain", {"dormant-units": [None, "info"]}, learned),
    ]
    found = figures(cases)
    row = found["conditions"]["dormant-units"]
    assert found["programs"] == {"sick": 2, "healthy": 2, "unclear": 1, "without an answer": 0}
    assert (row["recall"], row["precision"], row["lead"]) == (0.5, 0.5, 20)
    assert row["taken_for"] == {"dormant-units": 1, "stalled-learning": 1}
    assert (found["detected"]["count"], found["named_given_detected"]["count"]) == (2, 1)
    assert (found["false_alarms"]["programs"]["count"], found["false_alarms"]["per_1000_steps"]) == (1, 1.0)


def test_the_interval_of_a_share_is_exact():
    low, high = clopper_pearson(0, 100)
    assert low == 0.0 and (1 - high) ** 100 == pytest.approx(0.025)


def test_a_script_whose_scaler_leaves_out_every_step_does_call_its_optimizer():
    change = next(f for f in FAULTS if f.name == "scale-falls")
    result = run_program(TrainingProgram(0, change, "mlp", "flat", 0))
    assert result.truth["scale"] <= 1 and result.first == ("loss-scale-at-its-floor",)
