"""Spikes of single steps are named where they come back again and again, and noise of small batches is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import homeostat


def findings(loss_of, model: nn.Module, steps: int = 500, rate: float = 1e-3) -> list[str]:
    optimizer = torch.optim.Adam(model.parameters(), rate)
    run = homeostat.attach(model, optimizer, every=10)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(step).backward()
        optimizer.step()
    run.detach()
    return [finding.condition for finding in run.findings() if finding.severity != "info"]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))


@pytest.mark.parametrize("kind", ["classes", "numbers"])
@pytest.mark.parametrize("sick", [True, False])
def test_corrupt_batches_now_and_then(kind, sick):
    model, teacher = net(), torch.randn(8, 4, generator=torch.Generator().manual_seed(1))

    def loss(step: int):
        inputs = torch.randn(32, 8)
        targets = inputs @ teacher
        outputs = model(-25 * inputs if sick and step % 45 == 44 else inputs)
        return F.mse_loss(outputs, targets) if kind == "numbers" else F.cross_entropy(outputs, (-targets).argmax(1))

    assert ("loss-spikes" in findings(loss, model)) == sick


@pytest.mark.parametrize("batch", [1, 4])
def test_small_batches_with_wrong_labels_are_noise(batch):
    model, teacher = net(), torch.randn(8, 4, generator=torch.Generator().manual_seed(1))

    def loss(step: int):
        inputs = torch.randn(batch, 8)
        labels = (inputs @ teacher).argmax(1)
        noisy = torch.where(torch.rand(batch) < 0.1, torch.randint(0, 4, (batch,)), labels)
        return F.cross_entropy(model(inputs), noisy)

    assert "loss-spikes" not in findings(loss, model, 800, 3e-3)
