"""Plasticity against torch.optim on a deep copy, and on networks whose answer is known."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from homeostat.core.random import Draw
from homeostat.core.snapshot import Probe, Readings
from homeostat.testing import inputs
from homeostat.vitals import Plasticity, plasticity
from homeostat.vitals.continual.probe_task import fresh_targets


def probe_of(model: nn.Module, x: torch.Tensor, seed: int = 0) -> Probe:
    parameters = {n: p.detach().clone() for n, p in model.named_parameters()}
    return Probe(parameters, x, x, lambda p: functional_call(model, dict(p), (x,)), lambda p: x.sum(), Draw(seed))


def network(seed: int, bias: float = 0.0) -> nn.Sequential:
    g = torch.Generator().manual_seed(seed)
    first = nn.Linear(5, 32)
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(32, 3))
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g) / p.shape[-1] ** 0.5
    first.bias.data += bias
    return model


X = torch.randn(24, 5, generator=torch.Generator().manual_seed(9))


@pytest.mark.oracle("plasticity")
@pytest.mark.parametrize("name, optimizer", [("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)])
@pytest.mark.parametrize("around", ["outputs", "zero"])
def test_it_is_what_training_a_copy_with_torch_gives(name, optimizer, around):
    model = network(0)
    probe = probe_of(model, X)
    value = plasticity(probe, 30, 0.01, name, around=around)
    targets = fresh_targets(probe, "network", 1e5, probe.draw.at("plasticity", 0))
    goal = targets + (model(X).detach() if around == "outputs" else 0)
    model, opt = model.double(), optimizer(model.parameters(), lr=0.01)
    for _ in range(30):
        opt.zero_grad()
        (model(X.double()) - goal).square().mean().backward()
        opt.step()
    final = (model(X.double()) - goal).square().mean().detach()
    expected = 1 - final / (targets - targets.mean(0)).square().mean()
    assert float(value) == pytest.approx(float(expected), abs=1e-3)


def test_a_dead_network_is_less_plastic_than_a_fresh_one():
    fresh, dead = plasticity(probe_of(network(1), X), 300, 0.01), plasticity(probe_of(network(1, -50.0), X), 300, 0.01)
    assert float(fresh) > 0.8
    assert abs(float(dead)) < 0.1


def test_more_steps_fit_better_and_one_is_the_ceiling():
    few, many = (float(plasticity(probe_of(network(2), X), steps, 0.01)) for steps in (5, 800))
    assert few < many <= 1
    assert many > 0.99


def test_targets_depend_on_the_draw_alone_and_distinguish_close_inputs():
    probe = probe_of(network(0), X)
    other = dataclasses.replace(probe_of(network(5), X), draw=probe.draw)
    a, b = (fresh_targets(p, "network", 1e5, p.draw) for p in (probe, other))
    assert torch.equal(a, b)
    near = fresh_targets(
        dataclasses.replace(probe, inputs=X * (1 + 1e-3 * torch.rand_like(X))), "network", 1e5, Draw(0)
    )
    assert float((a - near).square().mean()) > 0.5
    assert not torch.equal(a, fresh_targets(probe, "network", 1e5, Draw(1)))


def test_tokens_get_noise_and_outputs_of_any_shape_are_taken():
    model = nn.Embedding(11, 6)
    tokens = torch.arange(11)[:, None].expand(11, 4)
    value = plasticity(probe_of(model, tokens), 50, 0.1)
    assert 0 < float(value) <= 1
    flat = nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))
    assert math.isfinite(float(plasticity(probe_of(flat, X), 3)))


def test_what_cannot_be_known_is_missing():
    constant, single = torch.ones(8, 5), X[:1]
    for probe in (probe_of(network(0), constant), probe_of(network(0), single)):
        assert math.isnan(float(plasticity(probe, 3)))
    probe = probe_of(network(0), X)
    assert math.isnan(float(plasticity(dataclasses.replace(probe, outputs=lambda p: torch.ones(24, 3)), 3)))
    assert math.isnan(float(plasticity(probe, 30, 1e9, "sgd")))
    assert Plasticity()(Readings()) == {}


def test_the_copy_is_a_copy():
    probe = inputs.small_probe()
    before = {n: p.clone() for n, p in probe.parameters.items()}
    Plasticity(steps=3)(Readings(probe=probe))
    assert all(torch.equal(before[n], p) for n, p in probe.parameters.items())
