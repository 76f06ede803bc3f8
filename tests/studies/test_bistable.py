"""The systems of the early-warning audit, the windows cut from them, and the figures drawn from those."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from homeostat.studies.lab.bistable import SYSTEMS, Allee, Training, windows
from homeostat.studies.papers.dynamics.ews_prosecutor import area, share_above


def test_at_the_points_of_rest_births_are_deaths():
    system = SYSTEMS["allee"]
    for n in system.points_of_rest():
        assert 500 * n**2 / (n**2 + 200**2) == pytest.approx(0.5 * n + system.rest)
    for x in SYSTEMS["may"].points_of_rest():
        assert 0.75 * (1 - x / 10) == pytest.approx(SYSTEMS["may"].rest * x**2 / (x**3 + 1))


@pytest.mark.parametrize("name", ["allee", "may"])
def test_the_resting_state_ceases_to_exist_at_the_critical_control(name):
    system = SYSTEMS[name]
    rests = [len(replace(system, rest=system.critical + d).points_of_rest()) for d in (-0.01, 0.01)]
    assert rests[0] == rests[1] + 2


def test_the_authors_threshold_is_the_unstable_point_of_their_allee_model():
    assert replace(SYSTEMS["allee"], rest=180.0).points_of_rest()[-2] == pytest.approx(250, abs=0.5)


def test_a_step_has_the_mean_and_variance_of_the_rates():
    system, n = SYSTEMS["allee"], np.full(200_000, 400.0)
    after = system.step(n, 190.0, np.random.default_rng(0))
    births, deaths = 500 * 400**2 / (400**2 + 200**2), 0.5 * 400 + 190
    assert after.mean() - 400 == pytest.approx(0.1 * (births - deaths), abs=0.1)
    assert after.var() == pytest.approx(0.1 * (births + deaths), rel=0.02)


def test_a_training_step_is_sgd_on_one_item():
    system = SYSTEMS["training"]
    assert isinstance(system, Training)
    state = system.start(3, np.random.default_rng(1))
    after = system.step(state, 0.1, np.random.default_rng(2))
    from homeostat.studies.lab.bistable import _items

    inputs, targets = (torch.from_numpy(x) for x in _items())
    picked = np.random.default_rng(2).integers(0, 32, 3)
    for run, item in enumerate(picked):
        p = torch.from_numpy(state[run]).requires_grad_()
        first, second, bias, out = p[:24].reshape(4, 6)

        def outputs(x, first=first, second=second, bias=bias, out=out, p=p):
            return torch.tanh(x[:, :1] * first + x[:, 1:] * second + bias) @ out + p[24]

        ((outputs(inputs[item][None]) - targets[item]) ** 2 / 2).sum().backward()
        assert after[run] == pytest.approx((p - 0.1 * p.grad).detach().numpy(), rel=1e-9)
        loss = (outputs(inputs) - targets).square().mean()
        assert system.signal(state)[run] == pytest.approx(float(loss.detach().log()), rel=1e-6)


class Ramp(Allee):
    """Goes down by one a step from 100 + the number of the run; crossed below 20."""

    def start(self, runs, generator):
        return 100.0 + np.arange(runs)

    def step(self, state, control, generator):
        return state - 1

    def crossed(self, signal):
        return signal < 20


def test_windows_end_with_the_last_sample_before_the_crossing():
    found = windows(Ramp("", 2, 10, 300, 0.0, 1.0), 6, 1.0, 0)
    assert found["chance"].shape == (6, 10) and found["stationary"].shape == (6, 10)
    assert sorted(found["chance"][:, -1]) == [20, 20, 20, 21, 21, 21]
    assert (np.diff(found["chance"]) == -2).all() and (np.diff(found["stationary"]) == -2).all()
    assert found["stationary"][:, -1] == pytest.approx(100 + np.arange(6) - 39)
    assert len(found["drifted"]) == 3


def test_a_run_that_crosses_before_it_has_settled_shows_nothing():
    class Early(Ramp):
        def start(self, runs, generator):
            return 30.0 + 50 * np.arange(runs)

    found = windows(Early("", 2, 10, 300, 0.0, 1.0), 2, 1.0, 0)
    assert len(found["chance"]) == len(found["stationary"]) == 1


def test_area_is_scikit_learns_and_shares_count():
    g = np.random.default_rng(0)
    first, second = g.integers(0, 9, 40).astype(float), g.integers(2, 9, 30).astype(float)
    expected = roc_auc_score([1] * 40 + [0] * 30, np.concatenate([first, second]))
    assert area(np.append(first, np.nan), second) == pytest.approx(expected)
    assert np.isnan(area(first[:0], second)) and np.isnan(share_above(first[:0], 0.0))
    assert share_above(np.array([1.0, 2.0, np.nan, 4.0]), 1.5) == 0.5
