"""Histories: bounded, even, honest about missing readings; and the statistics of a series against plain oracles."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeostat.core.errors import BadInput
from homeostat.diagnosis import trends
from homeostat.diagnosis.history import History


def test_missing_readings_are_kept_as_readings_and_left_out_of_series() -> None:
    history = History()
    history.extend([(1, "loss", "network", 2.0), (2, "loss", "network", None), (3, "loss", "network", 1.0)])
    assert history.series("loss", "network")[1].tolist() == [2.0, 1.0]
    assert history.latest("loss", "network") == (3, 1.0)
    history.add(4, "loss", "network", math.nan)
    assert math.isnan(history.latest("loss", "network")[1]) and history.clock(("loss",)) == 4


def test_a_long_series_stays_bounded_even_in_steps_and_exact_at_both_ends() -> None:
    history = History(capacity=128)
    for step in range(10_000):
        history.add(step, "loss", "network", float(step))
    steps, values = history.series("loss", "network")
    assert steps.size <= 128 and (steps == values).all()
    assert steps[:16].tolist() == list(range(16)) and steps[-30:].tolist() == list(range(9970, 10_000))
    assert np.diff(steps).max() < 10_000 / 128 * 6


def test_steps_may_not_go_back_and_values_cannot_be_written_through_a_view() -> None:
    history = History()
    history.add(10, "loss", "network", 1.0)
    with pytest.raises(BadInput, match="step 9"):
        history.add(9, "loss", "network", 1.0)
    with pytest.raises(ValueError):
        history.series("loss", "network")[1][0] = 5.0


def test_state_survives_json() -> None:
    history = History()
    history.extend([(s, v, k, None if s == 3 else s / 7) for v in ("a", "b") for k in ("x", "y") for s in range(9)])
    history.boundary(4, "task 2")
    again = History.load(json.loads(json.dumps(history.state_dict())))
    assert again.state_dict() == history.state_dict()
    assert again.layers("a") == ("x", "y") and again.boundaries == [(4, "task 2")]


floats = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=3, max_size=60).map(np.array)


@settings(deadline=None)
@given(floats)
def test_robust_statistics_equal_scipy(values: np.ndarray) -> None:
    stats = pytest.importorskip("scipy.stats")
    steps = np.arange(values.size, dtype=float)
    assert trends.theil_sen(steps, values) == pytest.approx(stats.theilslopes(values, steps)[0], rel=1e-9, abs=1e-9)
    pairs = [(np.sign(values[j] - values[i])) for i in range(values.size) for j in range(i + 1, values.size)]
    assert trends.kendall_tau(values) == pytest.approx(np.mean(pairs))
    assert trends.median(values) == np.median(values)


def test_roughness_is_the_noise_and_not_the_trend() -> None:
    noise = np.random.default_rng(0).normal(0, 0.3, 4000)
    assert trends.roughness(noise + np.linspace(50, 0, 4000)) == pytest.approx(0.3, rel=0.05)
    assert trends.roughness(np.linspace(5, 1, 50)) == pytest.approx(0, abs=1e-12)


def test_tau_limit_holds_its_error_rate() -> None:
    rng = np.random.default_rng(2)
    over = [trends.kendall_tau(rng.normal(size=20)) > trends.tau_limit(20) for _ in range(4000)]
    assert 0.004 < np.mean(over) < 0.017
