"""Small programs with steps that are too long or too short, and twins whose steps only look so."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from test_programs import CLASSES, points
from torch import nn
from torch.nn import functional as F

import homeostat

NAMED = {"learning-rate-too-high", "learning-rate-too-low", "diverging-loss"}
"""The conditions that these programs have."""
Network = Callable[[], nn.Module]


def train(model, optimizer, loss=F.cross_entropy, steps=200, batch=64, rate=lambda step: 1.0, target=lambda x, y: y):
    """Plain training on `points`; what was found above information, in order."""
    run = homeostat.attach(model, optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for step in range(steps):
        x, y = points(batch, step)
        optimizer.zero_grad()
        loss(model(x), target(x, y)).backward()
        optimizer.step()
        schedule.step()
    run.detach()
    return [f.condition for f in run.findings() if f.severity != "info"]


def mlp(act: Callable[[], nn.Module], outputs: int = CLASSES, hidden: int = 64) -> nn.Module:
    return nn.Sequential(nn.Linear(8, hidden), act(), nn.Linear(hidden, hidden), act(), nn.Linear(hidden, outputs))


def convolutions() -> nn.Module:
    head = [nn.Flatten(), nn.Linear(64, CLASSES)]
    return nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(), *head)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.RNN(2, 32, batch_first=True), nn.Linear(32, CLASSES)

    def forward(self, x):
        return self.head(self.cell(x.view(-1, 4, 2))[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(2, 32), nn.Linear(32, CLASSES)
        self.block = nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True, norm_first=True)

    def forward(self, x):
        return self.head(self.block(self.embed(x.view(-1, 4, 2))).mean(1))


NETWORKS: dict[str, Network] = {
    "tanh": lambda: mlp(nn.Tanh), "relu": lambda: mlp(nn.ReLU), "convolutions": convolutions, "recurrent": Recurrent,
    "attention": Attention,
}  # fmt: skip
RATES = {"SGD": (10.0, 0.1, 1e-6), "Adam": (10.0, 3e-3, 1e-6)}
"""Optimizer -> rates that are far too high, usual, far too low."""
SUMMED = nn.CrossEntropyLoss(reduction="sum")


def made(network: str, optimizer: str, rate: float):
    torch.manual_seed(0)
    model = NETWORKS[network]()
    return model, getattr(torch.optim, optimizer)(model.parameters(), rate)


def pairs():
    """Every network with every optimizer; two pairs are run as usual, the others by `make thorough` alone."""
    fast = {("relu", "SGD"), ("attention", "Adam")}
    for pair in itertools.product(NETWORKS, RATES):
        marks = () if pair in fast else pytest.mark.thorough
        yield pytest.param(*pair, marks=marks)


@pytest.mark.parametrize(("size", "right"), [(0, ["learning-rate-too-high"]), (1, []), (2, ["learning-rate-too-low"])])
@pytest.mark.parametrize(("network", "optimizer"), list(pairs()))
def test_rates_are_too_high_usual_and_too_low(network: str, optimizer: str, size: int, right: list[str]) -> None:
    assert train(*made(network, optimizer, RATES[optimizer][size]))[:1] == right


def test_a_summed_loss_is_judged_by_its_own_scale() -> None:
    assert train(*made("relu", "SGD", 0.1 / 64), loss=SUMMED) == []
    assert train(*made("relu", "SGD", 0.2), loss=SUMMED)[:1] == ["learning-rate-too-high"]
    assert train(*made("relu", "SGD", 1e-8), loss=SUMMED)[:1] == ["learning-rate-too-low"]


def test_a_rate_that_becomes_too_high_after_a_good_start() -> None:
    model, optimizer = made("tanh", "SGD", 0.1)
    found = train(model, optimizer, steps=400, rate=lambda step: 1.0 if step < 200 else 200.0)
    assert found[:1] == ["learning-rate-too-high"]


def test_schedules_that_begin_or_end_near_zero_are_well() -> None:
    warm = train(*made("attention", "Adam", 3e-3), steps=300, rate=lambda step: (step + 1) / 3000)
    decayed = train(*made("relu", "Adam", 3e-3), steps=400, rate=lambda step: max(0.0, 1 - step / 380))
    assert warm == decayed == []


def test_a_converged_network_that_goes_on_with_tiny_steps_is_well() -> None:
    model, optimizer = made("relu", "Adam", 3e-3)
    for step in range(300):
        x, y = points(64, step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert train(model, torch.optim.SGD(model.parameters(), 1e-7)) == []


def test_fine_tuning_at_a_low_rate_is_well() -> None:
    model, optimizer = made("relu", "Adam", 3e-3)
    for step in range(300):
        x, y = points(64, step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model[4] = nn.Linear(64, CLASSES)
    assert train(model, torch.optim.AdamW(model.parameters(), 1e-5), steps=400) == []


def test_labels_without_order_are_no_fault_of_the_rate() -> None:
    found = train(*made("relu", "Adam", 3e-3), steps=400, target=lambda x, y: y[torch.randperm(len(y))])
    assert "stalled-learning" in found and "learning-rate-too-high" not in found


def test_a_head_that_begins_at_zero_may_change_by_more_than_its_norm() -> None:
    model = nn.Linear(8, CLASSES)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert train(model, torch.optim.Adam(model.parameters(), 3e-3), steps=400) == []


def test_large_steps_of_a_regression_that_goes_well_are_well() -> None:
    for rate, right in ((1e-2, []), (1.0, ["learning-rate-too-high"])):
        torch.manual_seed(0)
        model = mlp(nn.Tanh, outputs=1)
        adam = torch.optim.Adam(model.parameters(), rate)
        assert train(model, adam, F.mse_loss, target=lambda x, y: x[:, :1] * x[:, 1:2])[:1] == right


def deep(act: Callable[[], nn.Module], gain: float, depth: int = 12) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(*(part for _ in range(depth) for part in (nn.Linear(8, 8), act())), nn.Linear(8, CLASSES))
    for layer in model[::2]:
        nn.init.orthogonal_(layer.weight, gain)
    return model


@pytest.mark.parametrize(("gain", "right"), [(6.0, ["exploding-gradients"]), (1.4, [])])
def test_gradients_that_explode_from_the_first_step(gain: float, right: list[str]) -> None:
    model = deep(nn.ReLU, gain)
    assert train(model, torch.optim.Adam(model.parameters(), 1e-3), steps=100)[:1] == right


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_deep_stacks_that_give_one_direction_from_the_start(optimizer: str) -> None:
    sick, well = deep(nn.Identity, 0.3, 6), deep(nn.Identity, 1.0, 6)
    for layer in sick[2::2]:
        nn.init.constant_(layer.weight, 0.1)
    found = [train(m, getattr(torch.optim, optimizer)(m.parameters(), 3e-3), steps=120) for m in (sick, well)]
    assert "rank-collapse" in found[0] and not found[1]


def test_an_output_that_is_saturated_gets_no_gradient_at_all() -> None:
    model = mlp(nn.Tanh, outputs=1)
    squashed = nn.Sequential(model, nn.Sigmoid())
    nn.init.constant_(model[4].bias, -40.0)
    sgd = torch.optim.SGD(squashed.parameters(), 0.1)
    assert "vanishing-gradients" in train(squashed, sgd, F.mse_loss, target=lambda x, y: (y[:, None] > 2).float())


def test_a_loss_with_the_wrong_sign_diverges() -> None:
    ascent = lambda x, y: 2 * F.cross_entropy(x, y).detach() - F.cross_entropy(x, y)  # noqa: E731
    assert "diverging-loss" in train(*made("tanh", "SGD", 0.05), loss=ascent)
    assert "diverging-loss" in train(*made("relu", "Adam", 3e-3), loss=lambda x, y: -F.cross_entropy(x, y))
