"""Sharpness against the dense Hessian and numpy's eigenvalues."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from dense import dense_hessian
from hypothesis import given, settings
from hypothesis import strategies as st

from homeostat.core.random import Draw
from homeostat.core.snapshot import Probe, Readings
from homeostat.testing import inputs
from homeostat.vitals import Sharpness, edge, sharpness, top_eigenpair


@pytest.mark.oracle("sharpness")
@pytest.mark.parametrize("seed", range(5))
def test_sharpness_is_the_top_eigenvalue_of_the_dense_hessian(seed):
    exact = np.linalg.eigvalsh(dense_hessian(inputs.small_probe(seed, dtype=torch.float64)))
    value, vector = sharpness(inputs.small_probe(seed))
    assert float(value) == pytest.approx(exact[-1], rel=2e-3)
    assert float(vector.norm()) == pytest.approx(1, rel=1e-5)


def symmetric(seed: int, size: int, shift: float) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    """A dense symmetric matrix, its eigenvalues, a start; shifts let negative ones dominate half the time."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(size, size)))
    spectrum = rng.normal(size=size) * 10 + shift
    return torch.tensor((q * spectrum) @ q.T), spectrum, torch.tensor(rng.normal(size=size))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.floats(-30, 30))
def test_a_converged_value_is_within_the_tolerance_of_an_eigenvalue(seed, size, shift):
    matrix, spectrum, start = symmetric(seed, size, shift)
    pair = top_eigenpair(lambda v: matrix @ v, start, 0.01, 200)
    assert bool(pair.converged)
    value = float(pair.value)
    assert np.abs(spectrum - value).min() <= 0.01 * abs(value) + 1e-4 * np.abs(spectrum).max()
    assert value <= spectrum.max() + 1e-9 * np.abs(spectrum).max()


def test_it_is_the_largest_algebraic_value_for_99_of_100_random_matrices():
    """A start almost orthogonal to the top eigenvector can end at the second; plain power iteration fails in half."""
    missed = 0
    for seed in range(100):
        matrix, spectrum, start = symmetric(seed, 5 + seed % 50, 30 * np.sin(seed))
        value = float(top_eigenpair(matrix.matmul, start, 0.01, 200).value)
        missed += abs(spectrum.max() - value) > 0.01 * np.abs(spectrum).max()
    assert missed <= 1


def quadratic(curvatures: list[float]) -> Probe:
    c = torch.tensor(curvatures)
    x = torch.eye(len(curvatures))
    return Probe({"w": torch.ones_like(c)}, x, x, lambda p: p["w"] * x, lambda p: (c * p["w"] ** 2).sum() / 2, Draw(0))


def test_a_dominant_negative_eigenvalue_does_not_win():
    assert float(sharpness(quadratic([3.0, -100.0, 1.0]))[0]) == pytest.approx(3, rel=0.01)
    assert float(sharpness(quadratic([-3.0, -100.0, -5.0]))[0]) == pytest.approx(-3, rel=0.01)


def test_flat_is_zero_and_unknown_is_missing():
    probe = quadratic([0.0, 0.0])
    assert float(sharpness(probe)[0]) == 0
    linear = dataclasses.replace(probe, loss=lambda p: p["w"].sum())
    assert float(sharpness(linear)[0]) == 0
    for loss in (lambda p: torch.tensor(1.0), lambda p: p["w"].sum() * float("nan")):
        assert math.isnan(float(sharpness(dataclasses.replace(probe, loss=loss))[0]))
    assert math.isnan(float(sharpness(dataclasses.replace(probe, parameters={}))[0]))


def test_too_few_products_are_reported_as_missing():
    spectrum = list(np.linspace(0.5, 1.0, 400))
    assert math.isnan(float(Sharpness(iterations=3)(Readings(probe=quadratic(spectrum)))["network"]))
    assert float(Sharpness(iterations=200)(Readings(probe=quadratic(spectrum)))["network"]) == pytest.approx(
        1, rel=0.01
    )


def test_a_warm_start_takes_fewer_products():
    matrix = torch.diag(torch.linspace(0.5, 1.5, 300, dtype=torch.float64))
    calls = []

    def product(v):
        calls.append(1)
        return matrix @ v

    cold = top_eigenpair(product, torch.ones(300, dtype=torch.float64), 0.001, 200)
    used = len(calls)
    warm = top_eigenpair(product, cold.vector + 1e-3, 0.001, 200)
    assert len(calls) - used < used / 2
    assert float(warm.value) == pytest.approx(1.5, rel=1e-3)


def test_half_precision_parameters_are_differentiated_in_float32():
    exact = float(sharpness(inputs.small_probe(dtype=torch.float64))[0])
    assert float(sharpness(inputs.small_probe(dtype=torch.bfloat16), tolerance=0.2)[0]) == pytest.approx(exact, rel=0.2)


def test_edge_is_one_where_gradient_descent_stops_being_stable():
    """On a quadratic of curvature c gradient descent with learning rate r multiplies the distance by |1 - r c|."""
    for rate in (0.49, 0.51):
        w = 1.0
        for _ in range(100):
            w -= rate * 4.0 * w
        assert (edge(4.0, rate) > 1) == (abs(w) > 1)
