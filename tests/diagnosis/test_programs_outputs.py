"""Small programs whose outputs ignore the inputs or whose targets are out of reach, and twins that only look so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_programs import CLASSES, points
from torch import nn
from torch.nn import functional as F

import homeostat

NAMED = {"output-collapse", "targets-not-scaled"}
"""The conditions that these programs have."""
Same = Callable[[torch.Tensor], torch.Tensor]


def named(model, loss, target, rate=3e-3, steps=250, inputs: Same = lambda x: x, kind=torch.optim.Adam):
    optimizer = kind(model.parameters(), rate)
    run = homeostat.attach(model, optimizer)
    for step in range(steps):
        x, y = points(64, step)
        optimizer.zero_grad()
        loss(model(inputs(x)), target(x, y)).backward()
        optimizer.step()
    run.detach()
    return [f.condition for f in run.findings() if f.severity != "info"]


def mlp(outputs: int, *last: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, outputs), *last)


def class_of(x, y):
    return y


def half(x, y):
    """1 for half of the classes."""
    return (y >= CLASSES // 2).float().unsqueeze(1)


def amount(x, y):
    return x[:, :1] + x[:, 1:2]


@pytest.mark.parametrize(
    ("outputs", "loss", "target"),
    [(CLASSES, F.cross_entropy, class_of), (1, F.binary_cross_entropy_with_logits, half), (1, F.mse_loss, amount)],
)
def test_a_network_that_does_not_see_its_inputs(outputs: int, loss, target) -> None:
    assert "output-collapse" in named(mlp(outputs), loss, target, inputs=lambda x: 0 * x)
    assert named(mlp(outputs), loss, target) == []


def test_outputs_that_are_cut_off_by_a_last_rectifier() -> None:
    model = mlp(CLASSES, nn.ReLU())
    nn.init.constant_(model[4].bias, -9.0)
    assert "output-collapse" in named(model, F.cross_entropy, class_of)
    assert named(mlp(CLASSES, nn.ReLU()), F.cross_entropy, class_of) == []


def test_predicting_the_class_that_most_items_have_is_no_collapse() -> None:
    rare = lambda x, y: (torch.rand(len(y), 1) < 0.1).float()  # noqa: E731
    assert "output-collapse" not in named(mlp(1), F.binary_cross_entropy_with_logits, rare)


def test_labels_without_order_are_a_stall_and_no_collapse() -> None:
    found = named(mlp(CLASSES), F.cross_entropy, lambda x, y: y[torch.randperm(len(y))], steps=400)
    assert found[:1] == ["stalled-learning"]


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize(("scale", "mean"), [(1000.0, 0.0), (1.0, 500.0), (300.0, 4000.0)])
def test_targets_that_are_out_of_reach(kind, scale: float, mean: float) -> None:
    target = lambda x, y: scale * amount(x, y) + mean  # noqa: E731
    assert named(mlp(1), F.mse_loss, target, kind=kind)[:1] == ["targets-not-scaled"]


class Scaled(nn.Module):
    """Outputs in the unit of the targets."""

    def __init__(self, scale: float, mean: float) -> None:
        super().__init__()
        self.inner, self.scale, self.mean = mlp(1), scale, mean

    def forward(self, x):
        return self.inner(x) * self.scale + self.mean


def test_large_targets_that_a_network_reaches_are_well() -> None:
    target = lambda x, y: 300 * amount(x, y) + 4000  # noqa: E731
    assert named(Scaled(300.0, 4000.0), F.mse_loss, target) == []
    assert named(mlp(1), F.mse_loss, lambda x, y: amount(x, y) + 2) == []
