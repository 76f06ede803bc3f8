"""Complex networks: vitals are those of the magnitudes, and torch has nothing to warn of."""

import pytest
import torch
from torch import nn

import homeostat

pytestmark = pytest.mark.filterwarnings("error")


def test_a_complex_network_is_measured_by_its_magnitudes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False, dtype=torch.complex64), nn.Linear(8, 3, dtype=torch.complex64))
    optimizer = torch.optim.Adam(model.parameters())
    x, y = torch.randn(16, 6, dtype=torch.complex64), torch.randint(0, 3, (16,))
    weights: list[float] = []
    with homeostat.attach(model, optimizer, every=1, vitals="all", strict=True) as run:
        for step in range(4):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x).abs(), y)
            (loss * float("nan") if step == 3 else loss).backward()
            optimizer.step()
            weights.append(model[0].weight.detach().norm().item())
        seen = run.vitals()
    assert run.to_json()["failed"] == []
    assert seen["gradient-norm"]["0"][2][1] > 0 and "non-finite" in {found.condition for found in run.findings()}
    assert seen["weight-norm"]["0"][2][1] == pytest.approx(weights[1], rel=1e-6)  # before the third update
