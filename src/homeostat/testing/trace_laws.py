"""The laws that protect the user's network: during treatment, in its copies, and after `detach`."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from homeostat.core.treatment import Stage, Treatment
from homeostat.shell.hooks.torch_internals import global_hook_tables, gradient_hooks
from homeostat.testing.engine_laws import AttachedLoop, eager, loop
from homeostat.testing.grid import DOUBLE
from homeostat.testing.mini_run import same

STEPS = 12
_PATCHABLE = (
    (torch.Tensor, ("backward", "__init__")),
    (torch.autograd, ("backward", "grad")),
    (torch.optim.Optimizer, ("step", "zero_grad", "__init__", "state_dict")),
    (torch.amp.GradScaler, ("step", "unscale_", "update")),
    (nn.Module, [name for name, value in vars(nn.Module).items() if callable(value)]),
)
"""Functions of torch that a library might replace."""


def no_trace(treatment: Treatment) -> None:
    """After `detach`, there is no hook on a module, tensor, optimizer or in torch's own tables, no replaced function of
    torch, no changed name in the state_dict, and no reference that keeps the network alive."""
    before = _tables()
    it = loop(treatment, eager)
    names = list(it.model.state_dict())
    attributes = {name: set(vars(module)) for name, module in it.model.named_modules()}
    it.go(1, STEPS)
    it.run.detach()
    assert not (left := _hooks(it)), f"hooks are left on {left[0]}"
    changed = [name for name, value in _tables().items() if before[name] != value]
    assert not changed, f"torch's {changed[0]} is not what it was before the run"
    if treatment.stage != Stage.MODULES:  # inserted modules stay in the network
        assert list(it.model.state_dict()) == names, "the names of the network's state have changed"
        for name, module in it.model.named_modules():
            more = set(vars(module)) - attributes[name]
            assert not more, f"the module {name!r} has new attributes: {sorted(more)}"
    kept = _values(it.model)
    eager(AttachedLoop(it.model, torch.optim.SGD(it.model.parameters(), lr=0.0), it.run, eager), 1)
    assert not same(_values(it.model), kept), "it still acts after detach"
    _freed(it)


def _freed(it: AttachedLoop) -> None:
    """The network and its optimizer are freed although the run itself is kept."""
    run, model, optimizer = it.run, weakref.ref(it.model), weakref.ref(it.optimizer)
    it.__dict__.clear()
    gc.collect()
    assert model() is None, "the network is kept alive after detach"
    assert optimizer() is None, "the optimizer is kept alive after detach"
    assert run.steps > 0


def _tables() -> dict[str, Any]:
    """Sizes of torch's global tables of hooks, and the functions that might be replaced."""
    found: dict[str, Any] = dict(global_hook_tables())
    for owner, names in _PATCHABLE:
        found |= {f"{owner.__name__}.{name}": owner.__dict__.get(name) for name in names}
    return found


def _hooks(it: AttachedLoop) -> list[str]:
    """Descriptions of all places with hooks."""
    found: list[str] = []
    for name, module in it.model.named_modules():
        found += [f"module {name!r} ({t})" for t, v in vars(module).items() if t.endswith("_hooks") and v]
    found += [f"parameter {name}" for name, parameter in it.model.named_parameters() if gradient_hooks(parameter)]
    tables = [t for t in vars(it.optimizer) if "hook" in t]
    return found + [f"the optimizer ({t})" for t in tables if vars(it.optimizer)[t]]


def _values(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers, without running statistics, which every forward pass in training mode changes."""
    moved = ("running_mean", "running_var", "num_batches_tracked")
    return {name: value.clone() for name, value in model.state_dict().items() if not name.endswith(moved)}


def usable_while_treated(treatment: Treatment) -> None:
    """During a treated run the network can be pickled, saved and loaded whole, deep-copied and exported, with the same
    outputs each time, and without an effect on the run."""
    it, alone = loop(treatment, eager), loop(treatment, eager)
    names = list(it.model.state_dict())
    for number in range(1, STEPS + 1):
        it.go(number, number)
        alone.go(number, number)
        if number == STEPS // 2:
            _used(it.model)
            if treatment.stage != Stage.MODULES:
                assert list(it.model.state_dict()) == names, "the names of the network's state have changed"
    it.run.detach()
    alone.run.detach()
    wrong = same(_values(it.model), _values(alone.model))
    assert not wrong, f"{wrong} differs from a run in which the network was not copied, saved and exported"


def _used(model: nn.Module) -> None:
    inputs = DOUBLE.data(99)[0]
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    twins = {
        "unpickled": pickle.loads(pickle.dumps(model)),
        "saved whole and loaded": torch.load(saved, weights_only=False),
        "deep-copied": copy.deepcopy(model),
        "exported": torch.export.export(model, (inputs,)).module(),
    }
    with torch.no_grad():
        expected = model(inputs)
        for how, twin in twins.items():
            assert torch.equal(twin(inputs), expected), f"{how}, the network gives different outputs"


def copies_are_left_alone(treatment: Treatment) -> None:
    """A deep copy made during treatment (a target network) is never treated, whether it is only called or trained with
    its own optimizer, and its activations do not affect the treatment."""
    it, alone = loop(treatment, eager), loop(treatment, eager)
    it.go(1, 4)
    alone.go(1, 4)
    target, trained, reference = (copy.deepcopy(it.model) for _ in range(3))
    kept, own = _values(target), torch.optim.SGD(trained.parameters(), lr=0.05)
    for number in range(5, STEPS + 1):
        inputs, targets = DOUBLE.data(1000 + number)
        target(100 * inputs)
        own.zero_grad()
        F.cross_entropy(trained(inputs), targets).backward()
        own.step()
        it.go(number, number)
        alone.go(number, number)
    it.run.detach()
    alone.run.detach()
    assert not same(_values(target), kept), "a deep copy of the network was treated"
    _train_alone(reference)
    wrong = same(_values(trained), _values(reference))
    assert not wrong, f"{wrong} of a deep copy that trains by itself was treated"
    wrong = same(_values(it.model), _values(alone.model))
    assert not wrong, f"{wrong} differs because a deep copy ran beside it"


def _train_alone(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for number in range(5, STEPS + 1):
        inputs, targets = DOUBLE.data(1000 + number)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
