"""Runs of a few hundred fast steps: what is wrong with them is found before they end."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import homeostat


@pytest.mark.parametrize("steps", [100, 300])
def test_units_that_are_dead_from_the_start_are_the_first_finding(steps: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    nn.init.constant_(model[0].bias, -100.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    run = homeostat.attach(model, optimizer)
    for _ in range(steps):
        inputs = torch.randn(64, 8)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), inputs.sum(1, keepdim=True)).backward()
        optimizer.step()
    run.detach()
    first = run.findings()[0]
    assert first.condition == "dormant-units" and first.severity == "critical"
