"""Weight clipping, norm projection, FIRE and Parseval regularisation against restatements and the authors' code.

Compared with authors' code while writing this, in float64, a network of 12-20-20-5:
mohmdelsayed/weight-clipping, core/optim/weight_clipping.py - 200 SGD steps with kappa 0.5, 1 and 2: largest difference
of a weight 0. isaac7778/FIRE, vision/interventions/fire.py - with 30 Newton-Schulz steps the largest difference is
3e-15 of the largest weight; with its 10 steps a square layer keeps a singular value of 0.65 of the others, and the
difference is 0.14. isaac7778/FIRE, vision/interventions/parseval.py - gradient by autograd, 6 by 9: 1e-16.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import homeostat
from homeostat.core.errors import Refused
from homeostat.core.treatment import Treatment, View
from homeostat.treatments import Fire, NormProjection, ParsevalRegularization, WeightClipping
from homeostat.treatments.constraints.fire import nearest_isometry


def trained(treatment: Treatment, steps: int = 60, rate: float = 0.5, boundary: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.LayerNorm(12), nn.Linear(12, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    with homeostat.attach(model, optimizer, treatments=[treatment], vitals=(), strict=True) as run:
        for step in range(steps):
            g = torch.Generator().manual_seed(step)
            inputs, targets = torch.randn(16, 8, generator=g).double(), torch.randint(3, (16,), generator=g)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        if boundary:
            run.boundary()
    return model


@pytest.mark.oracle("weight-clipping")
@pytest.mark.parametrize("kappa", [0.3, 0.5])
def test_weights_and_biases_stay_within_kappa_over_the_root_of_fan_in_and_some_reach_it(kappa: float):
    model = trained(WeightClipping(kappa=kappa))
    for layer, fan_in in ((model[0], 8), (model[3], 12)):
        for parameter in (layer.weight, layer.bias):
            assert parameter.abs().max() <= kappa / math.sqrt(fan_in) * (1 + 1e-12)
        assert torch.isclose(layer.weight.abs().max(), torch.tensor(kappa / math.sqrt(fan_in)).double())
    assert model[2].weight.abs().max() > kappa / math.sqrt(8), "the scale of a norm is not clipped"


@pytest.mark.oracle("norm-projection")
def test_weights_keep_the_norm_and_the_direction_of_the_update():
    torch.manual_seed(0)
    start = {n: p.norm() for n, p in trained(NormProjection(), steps=0).named_parameters()}
    now = dict(trained(NormProjection()).named_parameters())
    for name in ("0.weight", "3.weight"):
        torch.testing.assert_close(now[name].norm(), start[name], rtol=1e-12, atol=0)
    treatment, w = NormProjection(share=0.25), torch.randn(4, 5, dtype=torch.float64)
    seen = View(step=1, parameters={"w": w}, initial={"w": 3 * w.flip(0)})
    (edit,), _ = treatment.plan(seen, {}, treatment.knobs())
    torch.testing.assert_close(edit.value, w * (1 + 0.25 * 2), rtol=1e-12, atol=0)


def newton_schulz(matrix: torch.Tensor, steps: int = 60) -> torch.Tensor:
    x = matrix / matrix.norm()
    for _ in range(steps):
        x = 1.5 * x - 0.5 * x @ x.mT @ x
    return x


@pytest.mark.oracle("fire")
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 5), (6, 4, 3, 3)])
def test_fire_gives_every_direction_the_same_gain_and_agrees_with_newton_schulz(shape: tuple[int, ...]):
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = nearest_isometry(weight, 0)
    places = weight[..., None, None] if weight.ndim == 2 else weight
    for i in range(places.shape[2]):
        for j in range(places.shape[3]):
            scale = math.sqrt(shape[0] / shape[1]) / (places.shape[2] * places.shape[3])
            got = (found[..., None, None] if weight.ndim == 2 else found)[:, :, i, j]
            torch.testing.assert_close(got, scale * newton_schulz(places[:, :, i, j]), rtol=1e-9, atol=1e-11)


def test_fire_acts_at_the_boundary_alone_and_says_when_there_was_none():
    model = trained(Fire(), boundary=True)
    values = torch.linalg.svdvals(model[3].weight)
    torch.testing.assert_close(values, torch.full_like(values, math.sqrt(3 / 12)), rtol=1e-9, atol=0)
    plain = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    with homeostat.attach(plain, optimizer, treatments=["fire"], vitals=()) as run:
        plain(torch.ones(1, 4)).sum().backward()
        optimizer.step()
    assert "run.boundary() was not called" in run.not_measured()["fire"]


def test_a_weight_that_is_not_finite_is_left_as_it_is():
    weight = torch.tensor([[1.0, float("nan")], [0.0, 2.0]])
    torch.testing.assert_close(nearest_isometry(weight, 0), weight, equal_nan=True)


@pytest.mark.oracle("parseval-regularization")
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 2, 3, 3)])
def test_parseval_gradient_is_that_of_its_penalty(shape: tuple[int, ...]):
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    leaf = weight.clone().requires_grad_()
    matrix = leaf.flatten(1)
    (0.3 * ((matrix @ matrix.T - 2.0 * torch.eye(shape[0])) ** 2).sum()).backward()
    treatment = ParsevalRegularization(strength=0.3, scale=2.0)
    parameters = {"w": weight, "head": torch.ones(2, 5, dtype=torch.float64)}
    seen = View(step=1, parameters=parameters, gradients={n: torch.zeros_like(p) for n, p in parameters.items()})
    edits, _ = treatment.plan(seen, {}, treatment.knobs())
    assert [edit.target for edit in edits] == ["w"], "the output layer is left out"
    torch.testing.assert_close(edits[0].value, leaf.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("treatment", [WeightClipping(), NormProjection(), Fire()])
def test_a_network_without_a_weight_matrix_is_refused(treatment: Treatment):
    parameters = {"weight": torch.ones(4), "bias": torch.zeros(4)}
    with pytest.raises(Refused, match="the network"):
        treatment.init(View(step=0, parameters=parameters, norms=frozenset(parameters)), treatment.knobs())
