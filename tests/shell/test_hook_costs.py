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
        assert 400 * 1e-7 < run._run.time.hooks < seconds / 2
    spent, whole = run._run.time.seconds + run._run.time.hooks, run._run.time.wall_seconds
    assert run._run.record.meta.overhead > 0.9 * spent / whole and not STEP_HOOKS.installed
