"""The stated overhead holds what hooks cost in steps in which nothing is due."""

import time

import torch
from torch import nn

import homeostat
from homeostat.shell.hooks.step_hooks import STEP_HOOKS


def test_hooks_of_quiet_steps_are_counted():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with homeostat.attach(model, optimizer, every=50) as run:
        began = time.perf_counter()
        for _ in range(400):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
        seconds = time.perf_counter() - began
    spent, meta = run._run.time, run._run.record.meta
    assert 400 * 1e-7 < spent.hooks < seconds
    assert 0.99 * (spent.used + spent.setup) < meta.overhead * meta.wall_seconds < meta.wall_seconds
    assert not STEP_HOOKS.installed
