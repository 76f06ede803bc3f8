"""Unit counts against loops over units in float64 numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from homeostat.core.errors import BadSetting
from homeostat.core.snapshot import Readings
from homeostat.vitals import (
    ActiveUnits,
    DeadUnits,
    DormantUnits,
    active_fraction,
    dead_fraction,
    dormant_fraction,
    saturated_fraction,
)

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=9)
# Multiples of 1/8: sums are exact in float32, so that the oracle's ties are ours.
MATRICES = hnp.arrays(np.float64, SHAPES, elements=st.integers(-16, 16).map(lambda i: i / 8))


def dormant_oracle(h: np.ndarray, tau: float) -> float:
    """Sokar et al. (2023), equation 1; compared with `estimate_neuron_score` of google/dopamine, labs/redo, which
    divides the mean |h| of each unit by the layer's mean of it plus 1e-9 and calls it dead at score <= threshold."""
    size = [sum(abs(float(v)) for v in h[:, i]) / len(h) for i in range(h.shape[1])]
    mean = sum(size) / len(size)
    return sum(s / (mean + 1e-9) <= tau for s in size) / len(size)


@pytest.mark.oracle("dormant-units")
@settings(max_examples=60, deadline=None)
@given(MATRICES, st.sampled_from([0.0, 0.03, 0.11, 0.507]))
def test_dormant_fraction_is_equation_1(h, tau):
    assert float(dormant_fraction(torch.tensor(h), tau)) == pytest.approx(dormant_oracle(h, tau))


@pytest.mark.oracle("active-units")
@settings(max_examples=60, deadline=None)
@given(MATRICES)
def test_active_fraction_counts_units_with_a_positive_mean(h):
    rectified = np.maximum(h, 0)
    expected = np.mean([np.mean(rectified[:, i]) > 0 for i in range(h.shape[1])])
    assert float(active_fraction(torch.tensor(rectified))) == pytest.approx(expected)
    if (h < 0).any():
        assert math.isnan(float(active_fraction(torch.tensor(h))))


@pytest.mark.oracle("dead-units")
@settings(max_examples=60, deadline=None)
@given(MATRICES)
def test_dead_fraction_is_all_zero_for_relu_and_constant_for_others(h):
    rectified = np.maximum(h, 0)
    off = np.mean([all(v <= 0 for v in rectified[:, i]) for i in range(h.shape[1])])
    constant = np.mean([len(set(h[:, i])) == 1 for i in range(h.shape[1])])
    assert float(dead_fraction(torch.tensor(rectified), "relu")) == pytest.approx(off)
    assert float(dead_fraction(torch.tensor(h), "tanh")) == pytest.approx(constant)


DERIVATIVES = {
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda z: 4 * np.exp(-z) / (1 + np.exp(-z)) ** 2),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "softsign": (lambda z: z / (1 + abs(z)), lambda z: 1 / (1 + abs(z)) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: z > 0),
    "relu6": (lambda z: np.clip(z, 0, 6), lambda z: (z > 0) & (z < 6)),
    "hardtanh": (lambda z: np.clip(z, -1, 1), lambda z: abs(z) < 1),
}


@pytest.mark.oracle("saturated-units")
@pytest.mark.parametrize("name", DERIVATIVES)
def test_saturation_is_judged_by_the_derivative_at_the_input(name):
    """The oracle differentiates at the pre-activation; the vital sees outputs only."""
    function, derivative = DERIVATIVES[name]
    rng = np.random.default_rng(1)
    z = rng.normal(size=(200, 12)) + np.linspace(-12, 12, 12)
    flat = np.mean(derivative(z) <= 0.05, axis=0)
    assert 0 < np.mean(flat >= 0.9) < 1
    value = saturated_fraction(torch.tensor(function(z)), name, 0.05, 0.9)
    assert float(value) == pytest.approx(np.mean(flat >= 0.9))


@pytest.mark.parametrize("name", ["gelu", "linear", "unknown", "leaky_relu"])
def test_without_bounds_saturation_is_missing(name):
    assert math.isnan(float(saturated_fraction(torch.zeros(20, 3), name)))


def test_an_all_zero_layer_is_wholly_dormant_and_dead_and_not_active():
    zero = torch.zeros(20, 5)
    assert float(dormant_fraction(zero)) == 1
    assert float(dead_fraction(zero)) == 1
    assert float(active_fraction(zero)) == 0


def test_one_huge_unit_does_not_make_small_relu_units_dead():
    h = torch.rand(32, 4) + 0.1
    h[:, 0] *= 1e12
    assert float(dead_fraction(h, "relu")) == 0
    assert float(dead_fraction(h, "gelu")) == 0
    assert float(dormant_fraction(h)) == 0.75


def test_few_samples_are_missing_until_parts_make_enough():
    h = torch.rand(20, 6)
    vital = DormantUnits(min_samples=16)
    parts = [vital.measure(Readings(activations={"a": h[i : i + 5]})) for i in range(0, 20, 5)]
    joined = parts[0]
    for i, part in enumerate(parts[1:], 2):
        joined = vital.combine(joined, part)
        assert bool(vital.finish(joined)["a"].isnan()) == (i * 5 < 16)


def test_the_nonlinearity_decides_what_dead_means():
    h = torch.full((32, 2), 0.5)
    steps = {kind: Readings(activations={"a": h}, nonlinearity={"a": kind}) for kind in ("relu", "tanh", "ReLU")}
    assert {kind: float(DeadUnits()(step)["a"]) for kind, step in steps.items()} == {"relu": 0, "tanh": 1, "ReLU": 0}
    assert math.isnan(float(ActiveUnits()(Readings(activations={"a": -h}))["a"]))


@pytest.mark.parametrize("bad", [{"tau": -0.1}, {"tau": 1.1}, {"min_samples": 0}, {"min_samples": 2.5}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(BadSetting, match=next(iter(bad))):
        DormantUnits(**bad)
