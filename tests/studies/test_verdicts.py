"""From effects to a verdict, on made-up measures whose right answer is known."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from homeostat.core.errors import BadInput
from homeostat.studies.lab.verdict import (
    Expectation,
    Judged,
    Verdict,
    difference,
    fall,
    interval,
    judge,
    overall,
    write,
)


def by_seed(effects):
    """Arms whose difference in "score" is the effect, on top of large variation shared by the arms of a seed."""
    return {s: {"a": {"score": 100.0 * s + e}, "b": {"score": 100.0 * s}} for s, e in enumerate(effects)}


EXPECTED = Expectation("a scores more than 1 above b", difference("a", "b", "score"), threshold=1.0)


@pytest.mark.parametrize(
    ("effects", "verdict"),
    [
        ([2.0, 2.1, 1.9, 2.2, 2.0], "holds"),
        ([0.5, 0.6, 0.4, 0.5, 0.5], "does not hold"),
        ([2.0, 0.1, 3.0, -1.0, 2.5], "inconclusive"),
        ([5.0], "inconclusive"),
        ([2.0, 2.0, 2.0], "holds"),
        ([1.0, 1.0, 1.0], "inconclusive"),
        ([2.0, math.nan, 2.0, 2.0, 2.0], "inconclusive"),
    ],
)
def test_an_expectation_is_judged_by_its_interval(effects, verdict):
    assert judge(EXPECTED, by_seed(effects)).verdict == verdict


def test_pairing_removes_what_seeds_share():
    judged = judge(EXPECTED, by_seed([2.0, 2.1, 1.9, 2.2, 2.0]))
    assert judged.effect == pytest.approx(2.04)
    assert judged.interval == pytest.approx((1.8984, 2.1816), abs=1e-4)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30).filter(lambda x: np.std(x) > 1e-6))
def test_the_interval_is_that_of_a_t_test(values):
    reference = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert interval(values) == pytest.approx((reference.low, reference.high), rel=1e-9, abs=1e-9)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = [low <= 3.0 <= high for low, high in (interval(rng.normal(3.0, 1.0, 5)) for _ in range(600))]
    assert 0.92 < np.mean(covered) < 0.98


def judged(verdict):
    return Judged("it", 0.0, 1.0, (0.5, 1.5), (1.0, 1.0), verdict)


@pytest.mark.parametrize(
    ("each", "whole"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "inconclusive"], "inconclusive"),
        (["holds", "does not hold", "inconclusive"], "does not hold"),
        (["inconclusive"], "inconclusive"),
    ],
)
def test_all_must_hold_and_one_clear_failure_decides(each, whole):
    assert overall([judged(v) for v in each]) == whole


def test_fall_is_early_minus_late():
    assert fall("a", "early", "late")({"a": {"early": 0.9, "late": 0.7}}) == pytest.approx(0.2)


def verdict_with(judgements, whole):
    return Verdict("s", "claim", whole, tuple(judgements), {}, (0, 1), {}, "paper", wall_seconds=math.inf)


def test_the_file_shows_the_expectation_that_decided(tmp_path):
    bad = Judged("the other", 0.3, 0.1, (-math.inf, 0.2), (0.1,), "does not hold")
    write(verdict_with([judged("holds"), bad], "does not hold"), tmp_path / "deep" / "s.json")
    stored = json.loads((tmp_path / "deep" / "s.json").read_text())
    assert stored["verdict"] == "does not hold" and stored["effect"] == 0.1 and stored["threshold"] == 0.3
    assert stored["interval"] == [None, 0.2] and stored["wall_seconds"] is None
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
