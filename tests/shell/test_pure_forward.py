"""Forward passes whose copies may be run, and those that reach something of the script."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import homeostat
from homeostat.shell.unit_graph.pure_forward import impurity

SCRIPT = """
import argparse, io, itertools, logging
import numpy as np
import torch
from dataclasses import dataclass
from random import gauss
from torch import nn, relu
from torch.nn import functional as F

COUNTER, CALLS, KEPT, CONSTANT, TABLE = itertools.count(), {"n": 0}, [], 3.0, torch.ones(2)
GENERATOR, STREAM, OTHER = torch.Generator(), np.random.default_rng(0), nn.Linear(2, 2)
LOG, LOGGER, ARGS = io.StringIO(), logging.getLogger("x"), argparse.Namespace(width=2, layers=[2])

def endless():
    while True:
        yield 1

ENDLESS = endless()

@dataclass
class Settings:
    width: int = 3

class Tracker:
    seen = 0

    def tick(self):
        self.seen += 1

SETTINGS, TRACKER = Settings(), Tracker()

def helper(x):
    return F.relu(x) * CONSTANT

def counting(x):
    CALLS["n"] += 1
    return x

def made():
    outer = []
    return lambda x: outer.append(1) or x

REMEMBERS = made()

class Net(nn.Module):
    shared = []

    def __init__(self):
        super().__init__()
        self.a, self.cache, self.tracker, self.hook = nn.Linear(2, 2), [], Tracker(), None

    @property
    def scale(self):
        return 2.0

    @property
    def noted(self):
        KEPT.append(1)
        return 2.0

    def method(self, x):
        return helper(x)

    def counted(self, x):
        return counting(x)

    def forward(self, x, default=None):
        LINE
        return self.a(x)
"""
PURE = (
    "x = helper(x)",
    "x = self.method(x) * self.scale",
    "self.calls = 1",
    "self.cache.append(1)",
    "self.tracker.tick()",
    "x = x.clone(); x[0] = 1; x.add_(1)",
    "x = [F.gelu(y) for y in (x, x)][0]",
    "x = x + torch.randn(2, generator=GENERATOR) + torch.from_numpy(STREAM.normal(size=2)).float() + gauss(0, 1)",
    "print(x); LOGGER.info('x')",
    "x = x * ARGS.width * SETTINGS.width * TABLE",
    "import math; x = x * math.pi",
    "x = relu(x)",
)
IMPURE = (
    "next(COUNTER)",
    "next(ENDLESS)",
    "CALLS['n'] += 1",
    "KEPT.append(1)",
    "TABLE.add_(1)",
    "default.append(1)",
    "self.shared.append(1)",
    "self.counted(x)",
    "self.noted",
    "self.a = self.a; type(self).calls = 1",
    "global COUNTER; COUNTER = None",
    "LOG.write('x')",
    "open('x')",
    "TRACKER.tick()",
    "SETTINGS.width = 4",
    "OTHER(x)",
    "counting(x)",
    "REMEMBERS(x)",
    "[counting(y) for y in x]",
    "(lambda y: KEPT.append(y))(x)",
    "import os; os.getcwd()",
    "exec('x')",
)


def network(line: str) -> nn.Module:
    names, script = {"__name__": __name__}, SCRIPT.replace("LINE", line)
    if "default" in line:
        script = script.replace("default=None", "default=[]")
    exec(compile(script, "script", "exec"), names)
    return names["Net"]()


@pytest.mark.parametrize("line", PURE)
def test_what_stays_inside_of_a_copy_is_pure(line):
    assert impurity(network(line)) == ""


@pytest.mark.parametrize("line", IMPURE)
def test_what_reaches_the_script_is_not(line):
    assert impurity(network(line))


def test_functions_and_hooks_that_a_network_holds_are_read_and_methods_of_copying_are_refused():
    remembers = network("pass")
    remembers.hook = (seen := []).append
    assert impurity(remembers)
    parametrized = nn.utils.parametrizations.spectral_norm(network("next(COUNTER)").a)
    assert impurity(parametrized) == ""
    odd = type("Odd", (nn.Linear,), {"__deepcopy__": lambda self, memo: seen.append(1) or self})
    assert "__deepcopy__" in impurity(odd(2, 2))
    own = nn.Linear(2, 2)
    own.forward = lambda x: seen.append(1) or x
    assert "seen" in impurity(own)


@pytest.mark.parametrize(
    "module",
    [
        nn.TransformerEncoderLayer(8, 2),
        nn.LSTM(3, 4, 2, bidirectional=True),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(3)),
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
        nn.MultiheadAttention(8, 2),
    ],
    ids=lambda module: type(module).__name__,
)
def test_networks_of_torch_are_pure(module):
    assert impurity(module) == ""


def test_a_network_that_counts_its_calls_is_called_by_the_script_alone():
    """Batches that differ and that it does not learn, so that copies would be run for two findings."""
    counter, calls = itertools.count(), []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 16), nn.Linear(80, 3)

        def forward(self, x):
            calls.append(next(counter))
            return self.head(torch.relu(self.body(x)).flatten(1))

    torch.manual_seed(0)
    model = Counting()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    run = homeostat.attach(model, optimizer, every=5)
    for step in range(160):
        optimizer.zero_grad()
        x, y = torch.randn(32, 5, 6) + step // 80 * 5, torch.randint(0, 3, (32,))
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    run.detach()
    assert calls == list(range(160))
    why = {entry["what"]: entry["why"] for entry in run.to_json()["not_measured"]}
    assert "no copy of the network is run" in why["forgetting"]
