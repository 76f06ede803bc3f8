"""One program of the grid, measured in one way or not at all, in a process of its own.

    python cell.py PROGRAM WAY OUT.json          way: bare, default, every, probe
    homeostat run cell.py PROGRAM bare OUT.json

What the program leaves behind is written to OUT.json as digests: models, optimizers, files made of them, the random
streams, torch's settings.
"""

import copy
import hashlib
import importlib
import inspect
import io
import json
import random
import sys

import numpy as np
import torch
from torch import nn

KINDS = ("networks", "modules", "loops", "torch", "python", "endings")
"""Kinds of programs, one module `programs_KIND` each."""


class Cell:
    """Given to a program: measures its networks where the way says so, and digests what it shows.

    Attributes:
        x, y: a batch [16, 6] and class labels [16].
    """

    def __init__(self, way):
        self.way, self.runs, self.noted = way, [], []
        data = torch.Generator().manual_seed(3)
        self.x, self.y = torch.randn(16, 6, generator=data), torch.randint(0, 3, (16,), generator=data)

    def measure(self, model, optimizer, probe=None):
        """Attach Homeostat, unless the program runs bare. Without a probe of its own, `x` and `y` are one."""
        if self.way == "bare":
            return
        import homeostat

        options = {"default": {}, "every": {"every": 1, "vitals": "all"}, "probe": {"every": 3, "vitals": "all"}}
        given = options[self.way]
        if self.way == "probe" and probe is not False:
            given["probe"] = probe or ((self.x, self.y), nn.functional.cross_entropy)
        self.runs.append(homeostat.attach(model, optimizer, **given))

    def train(self, model, optimizer, steps=6, loss=None):
        """A plain loop."""
        loss = loss or (lambda: nn.functional.cross_entropy(model(self.x), self.y))
        for _ in range(steps):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            optimizer.step()
        return value

    def note(self, thing):
        """Digest something now."""
        self.noted.append(digest(thing))

    def said(self):
        """What the runs have measured and what failed in them."""
        shown = [run.to_json() for run in self.runs]
        return sum(len(layers) for one in shown for layers in one["vitals"].values()), [one["failed"] for one in shown]


def digest(thing):
    """A digest of the state of a thing, and of the file that torch makes of it where it can."""
    if isinstance(thing, (list, tuple)):
        return [digest(one) for one in thing]
    if isinstance(thing, torch.Generator):
        return digest(thing.get_state())
    if isinstance(thing, np.random.Generator):
        return repr(thing.bit_generator.state)
    if isinstance(thing, random.Random):
        return hashlib.sha256(repr(thing.getstate()).encode()).hexdigest()
    if isinstance(thing, torch.Tensor):
        return hashed(thing)
    if hasattr(thing, "state_dict"):
        modules = thing.modules() if isinstance(thing, nn.Module) else ()
        kinds = [type(module).__name__ for module in modules]
        return [kinds, hashed(thing.state_dict()), hashed(thing), hashed(copied(thing))]
    return repr(thing)


def copied(thing):
    try:
        return copy.deepcopy(thing)
    except Exception as error:
        return type(error).__name__


def hashed(thing):
    file = io.BytesIO()
    try:
        torch.save(thing, file)
    except Exception as error:  # local classes, handles of hooks
        return type(error).__name__
    return hashlib.sha256(file.getvalue()).hexdigest()


def surroundings():
    """Random streams, and settings of torch and the interpreter that a run could disturb."""
    return {
        "torch": hashed(torch.get_rng_state()),
        "numpy": hashlib.sha256(repr(np.random.get_state()).encode()).hexdigest(),  # noqa: NPY002
        "python": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
        "modes": [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()],
        "numbers": [str(torch.get_default_dtype()), torch.get_num_threads(), torch.initial_seed()],
        "autocast": [torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()],
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "interpreter": [sys.gettrace() is None, sys.getprofile() is None, sys.getrecursionlimit()],
    }


def programs(kind):
    """Names of the programs of a kind: "KIND.NAME"."""
    module = importlib.import_module(f"programs_{kind}")
    defined = [f for f in vars(module).values() if getattr(f, "__module__", "") == module.__name__ and takes_cell(f)]
    return [f"{kind}.{function.__name__}" for function in defined]


def takes_cell(function):
    code = getattr(function, "__code__", None)
    alone = code is not None and code.co_argcount == 1 and not code.co_flags & inspect.CO_VARARGS
    return alone and code.co_varnames[0] == "cell"


def main():
    name, way, out = sys.argv[1:]
    kind, program = name.split(".")
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    cell, left = Cell(way), {}
    try:
        left["made"] = digest(getattr(importlib.import_module(f"programs_{kind}"), program)(cell) or [])
    except Exception as error:
        if kind == "endings":
            raise
        left["error"] = f"{type(error).__name__}: {error}"
    left |= {"noted": cell.noted, "surroundings": surroundings()}
    layers, failed = cell.said()
    with open(out, "w") as file:
        json.dump({"left": left, "layers": layers, "failed": failed}, file)


if __name__ == "__main__":
    main()
