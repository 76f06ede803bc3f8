"""Trace and norm of the Hessian against the dense one, and the bound they are read against."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from dense import dense_hessian

from homeostat.core.random import Draw
from homeostat.core.snapshot import Probe, Readings
from homeostat.testing import inputs
from homeostat.vitals import HessianNorm, HessianTrace, hessian_moments, sharpness, stochastic_edge


@pytest.mark.oracle("hessian-trace")
@pytest.mark.parametrize("seed", range(5))
def test_the_trace_is_that_of_the_dense_hessian(seed):
    """Within four standard errors of the estimator with signs, and exactly with unit vectors (26 parameters)."""
    probe = inputs.small_probe(seed, dtype=torch.float64)
    h = dense_hessian(probe)
    exact = HessianTrace(draws=26)(Readings(probe=probe))["network"]
    assert float(exact) == pytest.approx(np.trace(h), rel=1e-9)
    error = math.sqrt(2 * ((h**2).sum() - (np.diag(h) ** 2).sum()) / 25)
    drawn = HessianTrace(draws=25)(Readings(probe=probe))["network"]
    assert 0 < abs(float(drawn) - np.trace(h)) < 4 * error


@pytest.mark.oracle("hessian-norm")
@pytest.mark.parametrize("seed", range(5))
def test_the_norm_is_that_of_the_dense_hessian(seed):
    probe = inputs.small_probe(seed, dtype=torch.float64)
    expected = np.linalg.norm(dense_hessian(probe))
    exact = HessianNorm(draws=26)(Readings(probe=probe))["network"]
    assert float(exact) == pytest.approx(expected, rel=1e-9)
    assert float(HessianNorm(draws=25)(Readings(probe=probe))["network"]) == pytest.approx(expected, rel=0.5)


def test_over_many_seeds_the_draws_have_no_bias():
    probe = inputs.small_probe(0, dtype=torch.float64)
    h = dense_hessian(probe)
    found = [hessian_moments(dataclasses.replace(probe, draw=Draw(seed)), 20) for seed in range(50)]
    error = math.sqrt(2 * ((h**2).sum() - (np.diag(h) ** 2).sum()) / 1000)
    assert np.mean([float(m.trace) for m in found]) == pytest.approx(np.trace(h), abs=4 * error)
    squares = [float(m.square) for m in found]
    assert np.mean(squares) == pytest.approx((h**2).sum(), abs=4 * np.std(squares) / math.sqrt(50))


def test_sharpness_norm_and_trace_are_in_order_where_all_curvatures_are_positive():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    loss = lambda p: (x @ p["w"]).square().mean() / 2  # noqa: E731
    probe = Probe({"w": torch.ones(6)}, x, x, lambda p: x @ p["w"], loss, Draw(0))
    trace, square = hessian_moments(probe)
    top = float(sharpness(probe)[0])
    assert top <= float(square.sqrt()) * 1.001 <= float(trace) * 1.002
    gradients = x.square().sum(1).mean()
    assert float(trace) == pytest.approx(float(gradients), rel=1e-5), "mean squared gradient of the items' outputs"


def test_what_cannot_be_known_is_missing_and_flat_is_zero():
    x = torch.eye(2)
    probe = Probe({"w": torch.ones(2)}, x, x, lambda p: x, lambda p: p["w"].sum(), Draw(0))
    assert hessian_moments(probe) == (0, 0)
    for loss in (lambda p: torch.tensor(1.0), lambda p: p["w"].square().sum() * float("nan")):
        assert all(math.isnan(float(m)) for m in hessian_moments(dataclasses.replace(probe, loss=loss)))
    assert math.isnan(float(hessian_moments(dataclasses.replace(probe, parameters={})).trace))


@pytest.mark.parametrize("rate, stable", [(0.9, True), (1.15, False)])
def test_one_item_a_step_leaves_a_minimum_whose_trace_is_above_2_over_the_rate(rate, stable):
    """Two items with orthogonal gradients of length 2 fit exactly; each step scales one error by 1 - 4 rate / 2.

    With x = sqrt(2) e_1 or sqrt(2) e_2 the trace is 2 and the largest eigenvalue 1, so full batches are stable at both
    rates, below 2. One item at a time multiplies its error by |1 - 2 rate|.
    """
    x = math.sqrt(2) * torch.eye(2)
    loss = lambda p: (x @ p["w"]).square().mean() / 2  # noqa: E731
    probe = Probe({"w": torch.zeros(2)}, x, torch.zeros(2), lambda p: x @ p["w"], loss, Draw(0))
    trace = hessian_moments(probe).trace
    assert float(trace) == pytest.approx(2) and float(sharpness(probe)[0]) == pytest.approx(1, rel=0.01)
    assert (float(stochastic_edge(trace, rate)) < 1) == stable
    w, order = torch.ones(2), torch.randint(0, 2, (200,), generator=torch.Generator().manual_seed(0))
    for i in order:
        w = w - rate * (x[i] @ w) * x[i]
    assert (float(w.norm()) < 1) == stable
