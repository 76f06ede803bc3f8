"""Small programs that learn one thing after another, in pairs: forgetting is named first, the healthy twin is well."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from grids import part_of
from torch import nn
from torch.nn import functional as F

import homeostat

CLASSES = 6
Task = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
"""Number of the task -> a batch of it."""


def points(labels):
    centres = 2 * torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(5))
    return centres[labels] + 0.5 * torch.randn(len(labels), 16)


def class_pairs(task):
    labels = torch.randint(2 * task, 2 * task + 2, (32,))
    return points(labels), labels


def permuted(task):
    x, labels = points(torch.randint(0, CLASSES, (32,))), torch.randint(0, CLASSES, (32,))
    x = points(labels)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(task)) if task else torch.arange(16)
    return x[:, order], labels


def sequences(task):
    x, labels = class_pairs(task)
    return x.view(-1, 4, 4), labels


def images(task):
    x, labels = class_pairs(task)
    return x.view(-1, 1, 4, 4), labels


def shifted_regression(task):
    x = torch.randn(32, 4) + torch.tensor([4.0 * task - 4, 0, 0, 0])
    return x, (x[:, 1:2] if task % 2 else -x[:, 1:2]) + task


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.GRU(4, 32, batch_first=True), nn.Linear(32, CLASSES)

    def forward(self, x):
        return self.out(self.cell(x)[0][:, -1])


def mlp(inputs=16, outputs=CLASSES):
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, CLASSES)
    )


PROGRAMS: dict[str, tuple[Callable[[], nn.Module], Task, Callable[..., torch.Tensor]]] = {
    "class-incremental": (mlp, class_pairs, F.cross_entropy),
    "class-incremental images": (convolutional, images, F.cross_entropy),
    "class-incremental sequences": (Recurrent, sequences, F.cross_entropy),
    "permuted inputs": (mlp, permuted, F.cross_entropy),
    "regression in another place": (lambda: mlp(4, 1), shifted_regression, F.mse_loss),
}


def trained(name: str, rehearse: bool, steps: int = 120) -> homeostat.AttachedRun:
    make, batch, loss = PROGRAMS[name]
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    run = homeostat.attach(model, optimizer, every=10)
    for step in range(3 * steps):
        task = step // steps
        batches = [batch(task), *(batch(old) for old in range(task) if rehearse)]
        x, y = (torch.cat(part) for part in zip(*batches, strict=True))
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    run.detach()
    return run


def normed():
    layers = (nn.Linear(16, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(64, CLASSES))


def small_images():
    return nn.Sequential(nn.Unflatten(1, (1, 4, 4)), convolutional())


def relabelled(make, rate: float, momentum: float = 0.9, tasks: int = 16, steps: int = 32) -> homeostat.AttachedRun:
    """The names of the classes change from task to task."""
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=momentum)
    run = homeostat.attach(model, optimizer, every=10)
    for task in range(tasks):
        names = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(task))
        for _ in range(steps):
            labels = torch.randint(0, CLASSES, (64,))
            x = points(labels)
            optimizer.zero_grad()
            F.cross_entropy(model(x), names[labels]).backward()
            optimizer.step()
    run.detach()
    return run


def grave(run) -> list[str]:
    return [f.condition for f in run.findings() if f.severity != "info"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_was_learned_earlier_is_forgotten(name: str) -> None:
    assert grave(trained(name, rehearse=False))[:1] == ["forgetting"]


@pytest.mark.parametrize("name", part_of(PROGRAMS))
def test_with_rehearsal_nothing_is_forgotten(name: str) -> None:
    assert grave(trained(name, rehearse=True)) == []


@pytest.mark.parametrize(("make", "rate"), [(mlp, 0.02), (normed, 0.05)])
def test_lost_plasticity_comes_before_what_follows_from_it(make, rate: float) -> None:
    found = grave(relabelled(make, rate))
    assert found[:1] == ["loss-of-plasticity"] and "dormant-units" in found


@pytest.mark.parametrize(("make", "rate"), [(normed, 0.1), (small_images, 0.2)])
def test_a_network_that_learns_every_task_anew_is_well(make, rate: float) -> None:
    assert grave(relabelled(make, rate, momentum=0)) == []
