"""Layer reset, and hare and tortoise, through the user's loop, against restatements."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import homeostat
from homeostat.core.treatment import Treatment
from homeostat.treatments import HareAndTortoise, LayerReset


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 3)).double()


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    g = torch.Generator().manual_seed(number)
    inputs, targets = torch.randn(16, 6, generator=g, dtype=torch.float64), torch.randint(3, (16,), generator=g)
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), targets).backward()
    optimizer.step()


def trained(treatment: Treatment, steps: int) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with homeostat.attach(model, optimizer, treatments=[treatment], vitals=(), strict=True):
        for number in range(steps):
            step(model, optimizer, number)
    return model, optimizer


@pytest.mark.oracle("layer-reset")
@pytest.mark.parametrize("layers", [0, 1, 2, 9])
def test_the_last_layers_start_anew_and_the_first_ones_go_on(layers: int):
    model, optimizer = trained(LayerReset(layers=layers, every=10), 10)
    plain = network()
    other = torch.optim.Adam(plain.parameters(), lr=0.01)
    for number in range(10):
        step(plain, other, number)
    for place, (layer, untreated) in enumerate(zip(reversed(model[::2]), reversed(plain[::2]), strict=True)):
        for parameter, before in zip(layer.parameters(), untreated.parameters(), strict=True):
            state = optimizer.state[parameter]
            if place >= layers:
                assert torch.equal(parameter, before) and state["step"] == 10
                continue
            bound = layer.in_features**-0.5
            assert not torch.isclose(parameter, before).any() and parameter.abs().max() <= bound
            assert not state or (state["step"] == 0 and not state["exp_avg"].any() and not state["exp_avg_sq"].any())
            if parameter.numel() > 1000:
                assert parameter.detach().std() == pytest.approx(bound / 3**0.5, rel=0.05)


@pytest.mark.oracle("hare-and-tortoise")
def test_the_weights_return_to_their_average_every_interval():
    decay, every = 0.8, 4
    model, _ = trained(HareAndTortoise(decay=decay, every=every), 10)
    hare = network()
    optimizer = torch.optim.Adam(hare.parameters(), lr=0.01)
    tortoise = [p.detach().clone() for p in hare.parameters()]
    for number in range(10):
        step(hare, optimizer, number)
        with torch.no_grad():
            tortoise = [decay * t + (1 - decay) * p for t, p in zip(tortoise, hare.parameters(), strict=True)]
            if (number + 1) % every == 0:
                for p, t in zip(hare.parameters(), tortoise, strict=True):
                    p.copy_(t)
    for found, expected in zip(model.parameters(), hare.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)
