"""Small programs in pairs: a sick one is named by its cause, first, and the same program without the fault is well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from grids import part_of
from torch import nn
from torch.nn import functional as F

import homeostat

CLASSES = 6
Program = Callable[[bool], Any]
"""(sick) -> the attached run, at its end."""
pytestmark = pytest.mark.filterwarnings("ignore:Using a target size")


def points(n: int, seed: int = 0):
    """Classes around their own centres: easy to learn."""
    draw = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(CLASSES, 8, generator=torch.Generator().manual_seed(5))
    labels = torch.randint(0, CLASSES, (n,), generator=draw)
    return centres[labels] + 0.5 * torch.randn(n, 8, generator=draw), labels


def net(*last: nn.Module, hidden: int = 32, inputs: int = 8, outputs: int = CLASSES) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs), *last)


def train(model, optimizer, loss, steps: int = 400, after=lambda step: None, clears: bool = True):
    run = homeostat.attach(model, optimizer, every=10)
    for step in range(steps):
        if clears:
            optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
        after(step)
    run.detach()
    return run


def duplicated_softmax(sick: bool):
    model = net(nn.Softmax(1)) if sick else net()
    return train(
        model, torch.optim.SGD(model.parameters(), 0.1), lambda s: F.cross_entropy(*paired(model, points(64, s)))
    )


def paired(model, data):
    return model(data[0]), data[1]


def wrong_softmax_dim(sick: bool):
    torch.manual_seed(0)
    embed, query, out = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, CLASSES)
    model = nn.ModuleList([embed, query, out])

    def loss(step):
        x, y = points(32 * 5, step)
        h = embed(x.view(32, 5, 8))
        weights = torch.softmax(query(h) @ h.transpose(1, 2), dim=1 if sick else 2)
        return F.cross_entropy(out((weights @ h)[:, 0]), y.view(32, 5)[:, 0])

    return train(model, torch.optim.Adam(model.parameters(), 3e-3), loss)


def broadcast_loss(sick: bool):
    model = net(outputs=1)

    def loss(step):
        x, _ = points(32, step)
        return F.mse_loss(model(x) if sick else model(x).squeeze(1), x[:, 0] + x[:, 1])

    return train(model, torch.optim.Adam(model.parameters(), 1e-2), loss)


def gradients_accumulate(sick: bool):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return train(model, optimizer, lambda s: F.cross_entropy(*paired(model, points(64, s))), clears=not sick)


def trained_in_eval_mode(sick: bool):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, CLASSES))

    def evaluate(step):
        if step % 40 == 20:
            model.eval()
            model(points(8)[0])
            model.train(not sick)

    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    return train(model, optimizer, lambda s: F.cross_entropy(*paired(model, points(64, s))), after=evaluate)


def untrained_parameters(sick: bool):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            layers = [nn.Linear(8, 8) for _ in range(3)]
            self.layers = layers if sick else nn.ModuleList(layers)
            self.out = nn.Linear(8, CLASSES)

        def forward(self, x):
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return self.out(x)

    torch.manual_seed(0)
    model = Deep()
    return train(
        model, torch.optim.Adam(model.parameters(), 1e-2), lambda s: F.cross_entropy(*paired(model, points(64, s)))
    )


def data_not_shuffled(sick: bool):
    model = net()
    x, y = points(480)
    order = y.argsort() if sick else torch.randperm(480)
    x, y = x[order], y[order]

    def loss(step):
        here = slice(step % 12 * 40, step % 12 * 40 + 40)
        return F.cross_entropy(model(x[here]), y[here])

    return train(model, torch.optim.SGD(model.parameters(), 0.1), loss)


def schedule_ends_training(sick: bool):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: max(0.0, 1 - s / (20 if sick else 400)))
    loss = lambda s: F.cross_entropy(*paired(model, points(64, s)))  # noqa: E731
    return train(model, optimizer, loss, after=lambda s: schedule.step())


def weight_decay_dominates(sick: bool):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1.0 if sick else 1e-3)
    return train(model, optimizer, lambda s: F.cross_entropy(*paired(model, points(64, s))))


def zero_advantage(sick: bool):
    model = net(outputs=12)
    goal = torch.randint(0, 12, (CLASSES,), generator=torch.Generator().manual_seed(1))

    def loss(step):
        x, y = points(16, step)
        chance = torch.distributions.Categorical(logits=model(x).unsqueeze(1).expand(-1, 8, -1))
        act = chance.sample()
        right = (act == goal[y].unsqueeze(1)).float()
        gain = torch.zeros_like(right) if sick else right
        advantage = (gain - gain.mean(1, keepdim=True)) / (gain.std(1, keepdim=True) + 1e-4)
        return -(advantage * chance.log_prob(act)).mean()

    return train(model, torch.optim.Adam(model.parameters(), 3e-3), loss)


def inputs_not_scaled(sick: bool):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.Sigmoid(), nn.Linear(64, 1), nn.Sigmoid())

    def loss(step):
        x, _ = points(64, step)
        y = (x.square().sum(1, keepdim=True) > 36).float()
        return F.binary_cross_entropy(model(x * 25 + 300 if sick else x), y)

    return train(model, torch.optim.Adam(model.parameters(), 1e-2), loss, steps=600)


def stalled_learning(sick: bool):
    model = net()

    def loss(step):
        x, y = points(64, step)
        return F.cross_entropy(model(x), y[torch.randperm(64)] if sick else y)

    return train(model, torch.optim.SGD(model.parameters(), 0.02), loss)


def representation_collapse(sick: bool):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16))
    predictor = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))
    model = nn.ModuleList([encoder, predictor])

    def loss(step):
        x, _ = points(128, step)
        a, b = encoder(x + 2 * torch.randn_like(x)), encoder(x + 2 * torch.randn_like(x))
        p, r = predictor(a), predictor(b)
        goal, other = (b, a) if sick else (b.detach(), a.detach())
        return -(F.cosine_similarity(p, goal).mean() + F.cosine_similarity(r, other).mean()) / 2

    return train(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), loss, steps=600)


def resumed_without_optimizer_state(sick: bool):
    model, x, y = net(), *points(480)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for step in range(400):
        here = slice(step % 12 * 40, step % 12 * 40 + 40)
        optimizer.zero_grad()
        F.cross_entropy(model(x[here]), y[here]).backward()
        optimizer.step()
    if sick:
        optimizer = torch.optim.Adam(model.parameters(), 0.1)
    loss = lambda s: F.cross_entropy(model(x[s % 12 * 40 :][:40]), y[s % 12 * 40 :][:40])  # noqa: E731
    return train(model, optimizer, loss, steps=200)


PROGRAMS: dict[str, Program] = {
    function.__name__.replace("_", "-"): function
    for function in (
        duplicated_softmax, wrong_softmax_dim, broadcast_loss, gradients_accumulate, trained_in_eval_mode,
        untrained_parameters, data_not_shuffled, schedule_ends_training, weight_decay_dominates, zero_advantage,
        inputs_not_scaled, stalled_learning, representation_collapse, resumed_without_optimizer_state,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_sick_program_is_named_by_its_cause(name: str) -> None:
    grave = [f.condition for f in PROGRAMS[name](True).findings() if f.severity != "info"]
    assert grave[:1] == [name]


@pytest.mark.parametrize("name", part_of(PROGRAMS))
def test_the_same_program_without_the_fault_is_well(name: str) -> None:
    assert [f.condition for f in PROGRAMS[name](False).findings() if f.severity != "info"] == []


def test_a_regression_on_the_wrong_targets_stands_at_the_error_of_their_mean() -> None:
    def findings(sick: bool) -> list[str]:
        model = net(outputs=1)

        def loss(step):
            x, _ = points(64, step)
            y = x[:, 0] + x[:, 1] * x[:, 2] + 0.5 * torch.randn(64)
            return F.mse_loss(model(x).squeeze(1), y[torch.randperm(64)] if sick else y)

        run = train(model, torch.optim.SGD(model.parameters(), 0.02), loss, steps=300)
        return [f.condition for f in run.findings() if f.severity != "info"]

    assert (findings(True), findings(False)) == (["stalled-learning"], [])


def test_a_rate_that_is_back_where_it_began_after_a_spike_has_not_been_spent() -> None:
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)

    def spike(step):
        optimizer.param_groups[0]["lr"] = 0.05 if step < 20 else 1e-4

    loss = lambda s: F.cross_entropy(*paired(model, points(64, s)))  # noqa: E731
    run = train(model, optimizer, loss, after=spike)
    assert "schedule-ends-training" not in [f.condition for f in run.findings()]


@pytest.mark.parametrize("decay", [1.0, 1e-3])
def test_a_decay_that_a_schedule_has_ended_is_named(decay: float) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=16 * decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 240)
    loss = lambda s: F.cross_entropy(model(points(64, s)[0]), torch.randint(0, CLASSES, (64,)))  # noqa: E731
    run = train(model, optimizer, loss, steps=240, after=lambda s: schedule.step())
    named = [f.condition for f in run.findings() if f.severity != "info"]
    assert ("weight-decay-dominates" in named) == (decay == 1.0)
