"""What the studies in the reasoning laboratory compute from their measures, by hand."""

import math

import pytest
import torch

from homeostat.studies.lab.reasoning.base import Base
from homeostat.studies.lab.reasoning.preferences import pairs
from homeostat.studies.lab.reasoning.tasks import Chain
from homeostat.studies.papers.post_training.dpo_shift import _monotone, judged
from homeostat.studies.papers.post_training.entropic import GAINS, SET_POINT, _gap, _steered
from homeostat.studies.papers.post_training.entropy_mechanism import foretold, spent


def test_the_curve_is_foretold_from_the_first_third():
    entropy = [0.9 - 0.06 * i for i in range(15)]
    exact = foretold(entropy, [0.9 - 0.3 * math.exp(h) for h in entropy])
    assert exact["error, curve"] < 1e-9 < exact["error, line"]
    straight = foretold(entropy, [0.9 - 0.5 * h for h in entropy])
    assert straight["error, line"] < 1e-9 < straight["error, curve"]
    changed = foretold(entropy, [0.9 - 0.3 * math.exp(h) for h in entropy[:5]] + [0.0] * 10)
    assert changed["inside"] == 0.0
    assert math.isnan(foretold(entropy[:6], entropy[:6])["error, curve"])


def test_covariance_is_compared_with_the_fall_in_windows_of_ten():
    high, low = [1.0, 3.0] * 5, [0.0, 0.5] * 5
    series = {"covariance": high + low + high + [99.0], "change": [-0.2] * 10 + [-0.1] * 10 + [-0.2] * 10 + [99.0]}
    assert spent(series)["covariance with fall"] == pytest.approx(1.0)
    assert spent({"covariance": high}) == {}


def test_monotone_is_the_worst_step():
    arms = {"dpo": {"m": -2.0}, "shift 0.95": {"m": -1.5}, "shift 0.75": {"m": -1.6}, "shift 0.5": {"m": 0.0}}
    assert _monotone("m", 1.0)(arms) == pytest.approx(-0.1)
    assert _monotone("m", -1.0)(arms) == pytest.approx(-1.6)


def test_the_gap_counts_distance_to_the_set_point():
    arms = {"pi, on": {"entropy, late": SET_POINT - 0.02}, "plain, on": {"entropy, late": SET_POINT + 0.10}}
    assert _gap("on", "pi", "plain")(arms) == pytest.approx(0.08)


def test_proportional_alone_has_no_integral():
    assert _steered("plain") is None and GAINS["p"][1] == 0.0
    steered, far = _steered("p"), torch.tensor(SET_POINT + 0.1, dtype=torch.float64)
    assert float(steered.turn(far + 5)["alpha"]) == 1.0, "at its limit"
    assert [float(steered.turn(far)["alpha"]) for _ in range(3)] == pytest.approx([0.5] * 3), "and not shifted by it"
    integral = _steered("pi")
    assert float(integral.turn(far)["alpha"]) < float(integral.turn(far)["alpha"])


def test_the_reference_policy_has_displaced_nothing():
    base = Base(Chain(5, 3, "+-*"), width=16, layers=1, steps=30, batch=16)
    model = base.policy(0)
    found = judged(model, base.task, pairs(model, base.task, 32, 4, 0, "test"), 0)
    assert found["chosen, change"] == pytest.approx(0.0, abs=1e-5)
    assert found["margin"] == pytest.approx(0.0, abs=1e-5)
