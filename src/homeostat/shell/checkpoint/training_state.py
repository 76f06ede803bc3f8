"""Save and load what a run trains with: the model, its optimizers and other objects that have a state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from homeostat.core.errors import BadInput
from homeostat.core.signals import pass_on
from homeostat.shell.hooks.torch_internals import state_metadata
from homeostat.shell.network import Network

State = Mapping[str, Any]


def check_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The user's other objects to save, by name.

    Raises:
        BadInput: one has no state that can be saved and loaded.
    """
    if not isinstance(extra, Mapping):
        raise BadInput('extra must be a dictionary like {"scheduler": scheduler}')
    for name, thing in extra.items():
        if not isinstance(name, str) or not _kind(thing):
            raise BadInput(
                f"extra[{name!r}] is a {type(thing).__name__}: it needs state_dict() and load_state_dict(), or to be a "
                "torch.Generator or numpy.random.Generator"
            )
    return dict(extra)


def _kind(thing: Any) -> str:
    if isinstance(thing, torch.Generator):
        return "torch generator"
    if isinstance(thing, np.random.Generator):
        return "numpy generator"
    both = callable(getattr(thing, "state_dict", None)) and callable(getattr(thing, "load_state_dict", None))
    return type(thing).__name__ if both else ""


def parts(network: Network, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> object with a state: the model, optimizers, averaged copies and the user's other objects."""
    copies = [a.copy for a in network.averaged]
    return {
        "model": network.model,
        **{f"optimizer {i + 1}": o for i, o in enumerate(network.optimizers)},
        **{f"averaged copy {i + 1}": c for i, c in enumerate(copies) if c is not None},
        **{f"extra {name}": thing for name, thing in extra.items()},
    }


def state_of(thing: Any) -> dict[str, Any]:
    """State and class of one part; nothing is copied."""
    kind = _kind(thing)
    if isinstance(thing, nn.Module):
        found = thing.state_dict()
        return {"class": "module", "state": dict(found), "metadata": dict(state_metadata(found))}
    if isinstance(thing, torch.Generator):
        return {"class": kind, "state": thing.get_state()}
    if isinstance(thing, np.random.Generator):
        return {"class": kind, "state": thing.bit_generator.state}
    return {"class": kind, "state": thing.state_dict()}


def check_parts(here: Mapping[str, Any], saved: Mapping[str, State]) -> None:
    """Check that the same parts of the same classes were saved. `check_shapes` checks shapes.

    Raises:
        BadInput: another part, or another class.
    """
    for name in saved.keys() - here.keys():
        add = f": attach with {_hint(name)}" if name.startswith(("extra", "averaged")) else ""
        raise BadInput(f"the checkpoint also holds {_named(name)}{add}")
    for name in here.keys() - saved.keys():
        raise BadInput(f"the checkpoint holds no {_named(name)}: it was saved without it")
    for name, thing in here.items():
        now, then = state_of(thing)["class"], saved[name]["class"]
        if now != then:
            raise BadInput(f"the checkpoint's {_named(name)} is of class {then}, this one is a {now}")


def _check_groups(name: str, optimizer: Optimizer, saved: State) -> None:
    here = [len(group["params"]) for group in optimizer.param_groups]
    there = [len(group["params"]) for group in saved["param_groups"]]
    if here != there:
        raise BadInput(f"the checkpoint's {name} has parameter groups of {there} tensors, this one of {here}")


def _named(name: str) -> str:
    what, _, which = name.partition(" ")
    return repr(which) if what == "extra" else name


def _hint(name: str) -> str:
    what, _, which = name.partition(" ")
    return f"extra={{{which!r}: ...}}" if what == "extra" else "averaged=..."


def load(here: Mapping[str, Any], saved: Mapping[str, State]) -> Callable[[], None]:
    """Load all parts or none; returns what undoes it.

    Raises:
        BadInput: one of them cannot be loaded; all are as they were.
    """
    for name, thing in here.items():
        if isinstance(thing, Optimizer):
            _check_groups(name, thing, saved[name]["state"])
    before = {name: copy.deepcopy(state_of(thing)) for name, thing in here.items()}

    def back() -> None:
        for name, thing in here.items():
            _load_one(thing, before[name])

    for name, thing in here.items():
        try:
            _load_one(thing, saved[name])
        except Exception as error:
            back()
            pass_on(error)
            raise BadInput(f"the checkpoint's {_named(name)} cannot be loaded here: {error}") from error
    return back


def _load_one(thing: Any, saved: State) -> None:
    state = saved["state"]
    if isinstance(thing, nn.Module):
        thing.load_state_dict(_with_metadata(state, saved["metadata"]), strict=True)
    elif isinstance(thing, Optimizer):
        thing.load_state_dict(dict(state))
        _exactly(thing, state)
    elif isinstance(thing, torch.Generator):
        thing.set_state(state.to("cpu"))
    elif isinstance(thing, np.random.Generator):
        thing.bit_generator.state = state
    else:
        thing.load_state_dict(state)


def _with_metadata(state: State, metadata: State) -> Any:
    made = nn.Module().state_dict()
    made.update(state)
    state_metadata(made).update(metadata)
    return made


def _exactly(optimizer: Optimizer, saved: State) -> None:
    """Undo torch's cast of optimizer state to the dtype of its parameter, where it was saved in another dtype."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [n for group in saved["param_groups"] for n in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        for key, value in saved["state"].get(number, {}).items():
            now = optimizer.state[parameter].get(key)
            if isinstance(value, Tensor) and isinstance(now, Tensor) and value.dtype != now.dtype:
                optimizer.state[parameter][key] = value.to(now.device, copy=True)
