"""The models that fit exactly: gradients and training against autograd, norms against the trace they stand for."""

import numpy as np
import pytest
import torch

from homeostat.studies.lab.interpolation import (
    Diagonal,
    Items,
    TwoLayer,
    fit,
    parity_of_digits,
    probe_of,
    sparse_regression,
)
from homeostat.vitals import hessian_moments

MODELS = (TwoLayer(5), Diagonal(0.3))


def some_items(seed=0):
    g = np.random.default_rng(seed)
    return Items(g.normal(size=(12, 6)), g.normal(size=12), g.normal(size=(4, 6)), g.normal(size=4))


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
def test_the_gradient_is_that_of_autograd(model):
    items = some_items()
    weights = model.start(items, 2, np.random.default_rng(1))
    weights = {name: w + 0.1 * np.random.default_rng(2).normal(size=w.shape) for name, w in weights.items()}
    found, errors = model.gradient(weights, items.inputs, items.targets)
    for i in range(2):
        probe = probe_of(model, weights, i, items, 0)
        live = {name: p.requires_grad_() for name, p in probe.parameters.items()}
        gradients = torch.autograd.grad(probe.loss(live), list(live.values()))
        for name, g in zip(live, gradients, strict=True):
            assert found[name][i] == pytest.approx(g.numpy(), rel=1e-9, abs=1e-12)
        assert errors[i] == pytest.approx((probe.outputs(live) - probe.targets).detach().numpy())


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
def test_fitting_several_rates_at_once_is_torch_sgd_at_each(model, batch):
    items, rates = some_items(3), (0.01, 0.05)
    others, both = some_items(9), (np.random.default_rng(8), np.random.default_rng(4))
    _, found = fit(model, (others, items), rates, batch, 30, both)  # the second of two seeds
    for i, rate in enumerate(rates):
        generator = np.random.default_rng(4)
        weights = model.start(items, 1, generator)
        order = generator.integers(0, 12, (30, batch)) if batch else [range(12)] * 30
        live = {name: torch.from_numpy(w[0]).requires_grad_() for name, w in weights.items()}
        optimizer = torch.optim.SGD(live.values(), lr=rate)
        for chosen in order:
            x, y = (torch.from_numpy(part[list(chosen)]) for part in (items.inputs, items.targets))
            optimizer.zero_grad()
            ((model.outputs(live, x) - y).square().mean() / 2).backward()
            optimizer.step()
        for name, w in live.items():
            assert found[name][i] == pytest.approx(w.detach().numpy(), rel=1e-9)


def test_of_a_fitted_diagonal_model_the_trace_is_four_times_the_norm_weighted_by_the_inputs():
    items = sparse_regression(20, 10, 2, 5, np.random.default_rng(5))
    (weights,) = fit(Diagonal(0.3), (items,), (0.02,), 0, 5000, (np.random.default_rng(6),))
    trace = hessian_moments(probe_of(Diagonal(0.3), weights, 0, items, 0), 40).trace
    power = (items.inputs**2).mean(0)
    assert float(trace) == pytest.approx(4 * ((weights["u"] ** 2 + weights["v"] ** 2) * power).sum(), rel=1e-4)
    assert Diagonal(0.3).norm(weights)[0] == pytest.approx((weights["u"] ** 2 + weights["v"] ** 2).sum())


def test_too_large_a_rate_diverges_and_says_so():
    items = some_items(7)
    (weights,) = fit(TwoLayer(5), (items,), (0.01, 50.0), 1, 60, (np.random.default_rng(8),))
    assert np.isfinite(weights["a"][0]).all()
    assert np.isnan(float(hessian_moments(probe_of(TwoLayer(5), weights, 1, items, 0)).trace))


def test_items_are_split_and_targets_are_the_parity():
    inputs, labels = torch.rand(30, 2, 2), torch.arange(30) % 10
    items = parity_of_digits(inputs, labels, 20, np.random.default_rng(0))
    assert items.inputs.shape == (20, 5) and items.test_inputs.shape == (10, 5)
    everything = np.vstack([items.inputs, items.test_inputs])
    assert (everything[:, -1] == 1).all()
    targets = np.concatenate([items.targets, items.test_targets])
    for row, target in zip(everything, targets, strict=True):
        (match,) = np.flatnonzero((inputs.flatten(1).double().numpy() == row[:4]).all(1))
        assert target == (1 if labels[match] % 2 else -1)


def test_path_norm_is_the_sum_over_units():
    w, a = np.array([[[3.0, 4.0], [0.0, 2.0]]]), np.array([[-2.0, 0.5]])
    assert TwoLayer(2).norm({"w": w, "a": a}) == pytest.approx([11.0])
