"""From effects to a verdict, on made-up measures whose right answer is known."""

import dataclasses
import importlib.util
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from homeostat.core.errors import BadInput, BadSetting
from homeostat.studies.lab.earlier_rule import earlier_judgements
from homeostat.studies.lab.expectation import Expectation, Precondition, difference, fall, primary
from homeostat.studies.lab.robust import interquartile_mean, probability_of_improvement
from homeostat.studies.lab.sequential import NOMINAL, looks, repeated_interval
from homeostat.studies.lab.tuning import Tuning
from homeostat.studies.lab.verdict import (
    Judged,
    Verdict,
    interval,
    judge,
    judge_precondition,
    overall,
    with_robust,
    write,
)


def by_seed(effects):
    """Arms whose difference in "score" is the effect, on top of large variation shared by the arms of a seed."""
    return {s: {"a": {"score": 100.0 * s + e}, "b": {"score": 100.0 * s}} for s, e in enumerate(effects)}


EXPECTED = Expectation("a scores more than 1 above b", difference("a", "b", "score"), 1.0, primary=True, margin=0.5)


@pytest.mark.parametrize(
    ("effects", "last", "verdict"),
    [
        ([2.0, 2.1, 1.9, 2.2, 2.0], False, "holds"),
        ([0.5, 0.6, 0.4, 0.5, 0.5], False, "does not hold"),
        ([2.0, 0.1, 3.0, -1.0, 2.5], True, "inconclusive"),
        ([5.0], True, "inconclusive"),
        ([1.0, 1.1, 0.9, 1.05, 0.95], False, "inconclusive"),
        ([1.0, 1.1, 0.9, 1.05, 0.95], True, "no effect larger than 1.5"),
        ([1.0, 1.3, 0.7, 1.2, 0.8], True, "inconclusive"),
        ([2.0, math.nan, 2.0, 2.0, 2.0], True, "inconclusive"),
    ],
)
def test_an_expectation_is_judged_by_its_interval(effects, last, verdict):
    assert judge(EXPECTED, by_seed(effects), last=last).verdict == verdict


def test_pairing_removes_what_seeds_share():
    judged = judge(EXPECTED, by_seed([2.0, 2.1, 1.9, 2.2, 2.0]))
    assert judged.effect == pytest.approx(2.04)
    reach = stats.t.ppf(1 - NOMINAL[1] / 2, 4) * np.std([2.0, 2.1, 1.9, 2.2, 2.0], ddof=1) / math.sqrt(5)
    assert judged.interval == pytest.approx((2.04 - reach, 2.04 + reach))


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30).filter(lambda x: np.std(x) > 1e-6))
def test_the_interval_is_that_of_a_t_test(values):
    reference = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert interval(values) == pytest.approx((reference.low, reference.high), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("primaries", [1, 2])
def test_all_looks_together_keep_the_stated_error(primaries):
    """The share of studies of which some look's interval misses the true mean: 5%, of each of two primaries 2.5%."""
    rng, studies = np.random.default_rng(1), 600
    missed = 0
    for _ in range(studies):
        values = rng.normal(3.0, 1.0, 100)
        bounds = [repeated_interval(values[:n], primaries) for n in looks()]
        missed += any(not low <= 3.0 <= high for low, high in bounds)
    stated = 0.05 / primaries
    assert abs(missed / studies - stated) < 3 * math.sqrt(stated * (1 - stated) / studies)
    fixed = np.mean([any(abs(stats.ttest_1samp(v[:n], 0).statistic) > stats.t.ppf(0.975, n - 1) for n in looks())
                     for v in rng.normal(0.0, 1.0, (150, 100))])  # fmt: skip
    assert fixed > 0.1, "a fixed 95% interval would miss far more often, so the level matters"


def judged(verdict, role="primary"):
    return Judged("it", 0.0, 1.0, (0.5, 1.5), (1.0, 1.0), verdict, role)


@pytest.mark.parametrize(
    ("each", "whole"),
    [
        (["holds"], "holds"),
        (["holds", "holds"], "holds"),
        (["holds", "inconclusive"], "inconclusive"),
        (["holds", "no effect larger than 2"], "no effect larger than 2"),
        (["no effect larger than 2", "does not hold"], "does not hold"),
        (["inconclusive"], "inconclusive"),
    ],
)
def test_the_primary_expectations_decide_and_secondary_ones_change_nothing(each, whole):
    assert overall([judged(v) for v in each]) == whole
    for other in ("holds", "does not hold", "inconclusive"):
        assert overall([*(judged(v) for v in each), judged(other, "secondary")]) == whole


def test_what_secondary_expectations_say_stands_beside_the_verdict():
    found = verdict_with([judged("holds"), judged("does not hold", "secondary")], "holds")
    assert found.reservations == ("it: does not hold",) and found.deciding.role == "primary"


def test_a_precondition_is_judged_by_a_fixed_interval():
    ill = Precondition("b loses more than 3 points", lambda arms: arms["b"]["score"], 3.0, ("b",))
    rows = {s: {"b": {"score": score}} for s, score in enumerate((5.0, 4.5, 5.5))}
    assert judge_precondition(ill, rows).verdict == "holds"
    assert judge_precondition(dataclasses.replace(ill, threshold=4.0), rows).verdict == "inconclusive"


def test_primary_marks_by_the_beginning_of_a_sentence():
    both = (EXPECTED, Expectation("b is fine too", fall("a", "x", "y")))
    plain = [dataclasses.replace(e, primary=False, margin=0.0) for e in both]
    marked = primary(plain, "b is", margin=0.2)
    assert [e.primary for e in marked] == [False, True] and marked[1].margin == 0.2
    with pytest.raises(ValueError, match="unpack"):
        primary(plain, "nothing says this", margin=0.1)


def test_the_earlier_rule_needs_all_expectations():
    more = dataclasses.replace(EXPECTED, threshold=5.0)
    rows = by_seed([2.0, 2.1, 1.9, 2.2, 2.0])
    assert earlier_judgements([EXPECTED], rows)[1] == "holds"
    assert earlier_judgements([EXPECTED, more], rows)[1] == "does not hold"


def test_robust_measures_are_the_restated_ones():
    rng = np.random.default_rng(2)
    for size in (4, 10, 13):
        x, y = rng.normal(size=size).round(1), rng.normal(size=size).round(1)
        assert interquartile_mean(x) == pytest.approx(stats.trim_mean(x, 0.25))
        u = stats.mannwhitneyu(x, y).statistic
        assert probability_of_improvement(list(x), list(y)) == pytest.approx(u / size**2)


@pytest.mark.skipif(importlib.util.find_spec("rliable") is None, reason="rliable is not installed")
def test_robust_measures_are_those_of_rliable():
    from rliable import metrics

    x, y = np.random.default_rng(3).normal(size=(2, 12))
    assert interquartile_mean(x) == pytest.approx(metrics.aggregate_iqm(x[:, None]))
    there = metrics.probability_of_improvement(x[:, None], y[:, None])
    assert probability_of_improvement(list(x), list(y)) == pytest.approx(there)


def test_effects_of_two_arms_come_with_a_probability_of_improvement():
    rows = by_seed([2.0, 2.1, 1.9, 2.2, 2.0])
    found = with_robust(judge(EXPECTED, rows), EXPECTED.effect, rows)
    assert found.middle and found.middle["value"] == pytest.approx(2.0333, abs=1e-3)
    assert found.improvement and 0.5 < found.improvement["value"] < 1.0, "seeds are far apart"
    low, high = found.middle["interval"]
    assert low <= found.middle["value"] <= high


def test_tuning_chooses_the_best_mean_and_gives_every_arm_as_many_tries():
    tune = Tuning("late", {"a": ({"rate": 1}, {"rate": 2}, {"rate": 3})}, seeds=2)
    log = tune.chosen("a", [[0.1, 0.2], [0.5, math.nan], [0.2, 0.3]])
    assert log["chosen"] == {"rate": 3} and log["seeds"] == [1000, 1001]
    assert log["tried"][0]["per_seed"] == [0.1, 0.2]
    assert dataclasses.replace(tune, lowest=True).chosen("a", [[1.0], [0.5], [0.7]])["chosen"] == {"rate": 2}
    with pytest.raises(BadSetting, match="same number of settings"):
        Tuning("late", {"a": ({"rate": 1},), "b": ({"rate": 1}, {"rate": 2})})


def test_fall_is_early_minus_late():
    assert fall("a", "early", "late")({"a": {"early": 0.9, "late": 0.7}}) == pytest.approx(0.2)


def verdict_with(judgements, whole):
    return Verdict("s", "claim", whole, tuple(judgements), {}, (0, 1), {}, "paper", wall_seconds=math.inf)


def test_the_file_shows_the_expectation_that_decided(tmp_path):
    bad = Judged("the other", 0.3, 0.1, (-math.inf, 0.2), (0.1,), "does not hold", "primary")
    write(verdict_with([judged("holds"), bad], "does not hold"), tmp_path / "deep" / "s.json")
    stored = json.loads((tmp_path / "deep" / "s.json").read_text())
    assert stored["verdict"] == "does not hold" and stored["effect"] == 0.1 and stored["threshold"] == 0.3
    assert stored["interval"] == [None, 0.2] and stored["wall_seconds"] is None and stored["rule"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["s.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "s.json"
    path.write_text("old")
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(BadInput, match="disk full; choose another place"):
        write(verdict_with([judged("holds")], "holds"), path)
    assert path.read_text() == "old"


def test_an_unwritable_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="--out"):
        write(verdict_with([judged("holds")], "holds"), tmp_path / "file" / "s.json")
