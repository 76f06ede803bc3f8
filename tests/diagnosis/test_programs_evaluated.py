"""Scripts that evaluate through a loss module: overfitting is named, and an evaluation that improves is well."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import homeostat
from homeostat.diagnosis import Diagnostician, Facts, History
from homeostat.diagnosis.conditions.data.overfitting import Overfitting
from homeostat.shell.hooks.module_hooks import MODULE_HOOKS


def data(n: int, seed: int, noise: float):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 20, generator=draw)
    y = (x[:, 0] + x[:, 1] > 0).long()
    flipped = torch.rand(n, generator=draw) < noise
    return x, torch.where(flipped, 1 - y, y)


def train(sick: bool, kind=nn.CrossEntropyLoss, mode: str = "eval", steps: int = 600, measured: bool = True):
    """A large network on few noisy labels learns them by heart; on many there is nothing to learn by heart."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 2))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    global criterion  # `attach` finds loss modules among global variables
    criterion = kind() if kind is nn.CrossEntropyLoss else kind(reduction="sum")
    (x, y), (vx, vy) = data(60 if sick else 4000, 1, 0.2), data(400, 2, 0.2)
    run = homeostat.attach(model, optimizer, every=10) if measured else None
    seen = []
    for step in range(steps):
        i = torch.randint(0, len(x), (32,))
        optimizer.zero_grad()
        criterion(model(x[i]), y[i]).backward()
        optimizer.step()
        if step % 25 == 24:
            model.eval() if mode == "eval" else None
            with torch.no_grad():
                parts = vx.split(150), vy.split(150)
                if mode == "opened" and run is not None:
                    with run.evaluation():
                        seen.append([float(criterion(model(a), b)) for a, b in zip(*parts, strict=True)])
                else:
                    seen.append([float(criterion(model(a), b)) for a, b in zip(*parts, strict=True)])
            model.train()
    if run is not None:
        run.detach()
    return run, seen, model


def named(run) -> list[str]:
    return [f.condition for f in run.findings() if f.severity != "info"]


@pytest.mark.parametrize("mode", ["eval", "opened"])
@pytest.mark.parametrize("sick", [True, False])
def test_overfitting_is_named(sick, mode):
    run, seen, _ = train(sick, mode=mode)
    assert named(run) == (["overfitting"] if sick else [])
    values = run.to_json()["vitals"]["evaluation-loss"]["network"]
    truth = [(150 * a + 150 * b + 100 * c) / 400 for a, b, c in seen]
    assert [step for step, _ in values] == [25 * (k + 1) for k in range(len(seen))]
    assert [value for _, value in values] == pytest.approx(truth, rel=1e-5)


def test_passes_without_gradient_in_training_mode_are_no_evaluations():
    run, _, _ = train(True, mode="training")
    assert "evaluation-loss" not in run.to_json()["vitals"]


def test_nothing_of_the_run_changes():
    _, seen, model = train(True)
    _, plain, same = train(True, measured=False)
    assert seen == plain
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_followed_loss_module_is_copied_pickled_and_scripted_as_without():
    global criterion
    model, criterion = nn.Linear(4, 2), nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = pickle.dumps(criterion)
    run = homeostat.attach(model, optimizer, every=1)
    for _ in range(3):
        optimizer.zero_grad()
        criterion(model(torch.ones(3, 4)), torch.tensor([0, 1, 0])).backward()
        optimizer.step()
    assert len(MODULE_HOOKS) and pickle.dumps(criterion) == before
    assert not copy.deepcopy(criterion)._forward_hooks
    scripted = torch.jit.script(criterion)
    assert float(scripted(torch.eye(2), torch.tensor([0, 1]))) == float(criterion(torch.eye(2), torch.tensor([0, 1])))
    run.detach()
    assert not criterion._forward_hooks and not len(MODULE_HOOKS)


@pytest.mark.parametrize("name", ["val_loss", "eval/loss", "Loss/valid", "test.loss_epoch"])
def test_a_logged_evaluation_loss_is_judged_like_one_that_was_seen(name):
    assert judged(f"logged/{name}") == judged("evaluation-loss") == ["overfitting"]


@pytest.mark.parametrize("name", ["train_loss", "val_accuracy", "value_loss", "latest_loss", "eval_runtime"])
def test_other_logged_numbers_are_no_evaluation_losses(name):
    assert judged(f"logged/{name}") == []


def judged(series: str) -> list[str]:
    """Findings where this series rises, and then where it is beside an evaluation loss that falls: silence."""
    found = []
    for beside in (None, "evaluation-loss" if series != "evaluation-loss" else None):
        history, doctor = History(), Diagnostician([Overfitting()])
        for step in range(0, 1000, 10):
            history.add(step, "step-loss", "network", 2.0 * math.exp(-step / 100))
            if step % 50 == 0:
                history.add(step, series, "network", 0.5 + abs(step - 300) / 300)
                if beside is not None:
                    history.add(step, beside, "network", 1 / (1 + step))
            doctor.update(history, Facts(steps=step))
        found.append([f.condition for f in doctor.findings if f.severity != "info"])
    assert series == "evaluation-loss" or found[1] == []
    return found[0]


class Functional(nn.Module):
    """Dropout as a function, and a GRU with dropout."""

    def __init__(self, recurrent: bool):
        super().__init__()
        self.rnn = nn.GRU(5, 16, 2, batch_first=True, dropout=0.3) if recurrent else None
        self.head = nn.Linear(16 if recurrent else 20, 2)

    def forward(self, x):
        if self.rnn is not None:
            return self.head(self.rnn(x.view(len(x), 4, 5))[0][:, -1])
        return self.head(nn.functional.dropout(x, 0.2, self.training))


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("sick", [True, False])
def test_functional_dropout_in_evaluation_mode(recurrent, sick):
    torch.manual_seed(0)
    model = Functional(recurrent).train(not sick)
    optimizer, (x, y) = torch.optim.Adam(model.parameters(), 1e-2), data(400, 1, 0.0)
    run = homeostat.attach(model, optimizer, every=10)
    for _ in range(100):
        i = torch.randint(0, 400, (32,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[i]), y[i]).backward()
        optimizer.step()
    run.detach()
    assert named(run) == (["trained-in-eval-mode"] if sick else [])


def test_a_network_that_computes_the_same_in_both_modes_may_stay_in_evaluation_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 2)).eval()
    optimizer, (x, y) = torch.optim.Adam(model.parameters(), 1e-2), data(400, 1, 0.0)
    run = homeostat.attach(model, optimizer, every=10)
    for _ in range(100):
        i = torch.randint(0, 400, (32,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[i]), y[i]).backward()
        optimizer.step()
    run.detach()
    assert named(run) == []
