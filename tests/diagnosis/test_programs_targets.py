"""Small programs whose targets come in order or are made by the network, and rates that are raised too far."""

from __future__ import annotations

import pytest
import torch
from test_programs import net, paired, points, train
from torch import nn
from torch.nn import functional as F

import homeostat


def grave(run) -> list[str]:
    return [f.condition for f in run.findings() if f.severity != "info"]


@pytest.mark.parametrize("sick", [True, False])
def test_numbers_that_are_read_in_their_order(sick: bool) -> None:
    model = net(outputs=1)
    x, _ = points(480)
    y = x[:, 0] + (x[:, 1] * x[:, 2]).tanh()
    order = y.argsort() if sick else torch.randperm(480)
    x, y = x[order], y[order]

    def loss(step):
        here = slice(step % 12 * 40, step % 12 * 40 + 40)
        return F.mse_loss(model(x[here]).squeeze(1), y[here])

    run = train(model, torch.optim.Adam(model.parameters(), 3e-3), loss, steps=150)
    assert grave(run)[:1] == (["data-not-shuffled"] if sick else [])


@pytest.mark.parametrize("chosen", [True, False])
def test_the_loss_of_a_network_that_makes_its_own_targets_is_no_measure(chosen: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3 if chosen else 1))
    run = homeostat.attach(model, adam := torch.optim.Adam(model.parameters(), 1e-3))
    for step in range(400):
        x, _ = points(64, step)
        after, act = 0.9 * x + 0.5 * torch.randn_like(x), torch.randint(0, 3, (64, 1))
        with torch.no_grad():
            target = (x[:, 0] > 0).float() + 0.9 * model(after).max(1).values
        adam.zero_grad()
        values = model(x).gather(1, act) if chosen else model(x)
        F.mse_loss(values.squeeze(1), target).backward()
        adam.step()
    run.detach()
    assert not {"stalled-learning", "diverging-loss", "oscillating-loss"} & set(grave(run))


@pytest.mark.parametrize("sick", [True, False])
def test_a_rate_that_is_raised_until_all_is_lost(sick: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 6))
    adam = torch.optim.Adam(model.parameters(), 1e-2)

    def switch(step):
        adam.param_groups[0]["lr"] = 1e-2 if step < 150 else 0.5 if sick else 2e-3

    run = train(model, adam, lambda s: F.cross_entropy(*paired(model, points(64, s))), steps=400, after=switch)
    assert grave(run)[:1] == (["learning-rate-too-high"] if sick else [])


class Adapted(nn.Module):
    """A frozen layer with a small trained one beside it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.small = nn.Sequential(nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False))

    def forward(self, x):
        return self.base(x) + self.small(x)


def test_one_adapter_amid_others_is_meant() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Adapted(8, 32), nn.Tanh(), Adapted(32, 32), nn.Tanh(), Adapted(32, 6))
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    run = train(model, adam, lambda s: F.cross_entropy(*paired(model, points(64, s))), steps=100)
    assert grave(run) == []
