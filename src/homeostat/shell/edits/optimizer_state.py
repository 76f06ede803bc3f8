"""The state of optimizers: which ones hold a parameter, and what their per-element state means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from homeostat.core.errors import Refused
from homeostat.shell.edits.undo_log import UndoLog

Group = dict[str, Any]
Holder = tuple[Optimizer, Group]

_FAMILIES = "SGD Adam AdamW NAdam RAdam Adamax SparseAdam RMSprop Adagrad Adadelta Rprop Muon".split()
"""Optimizers whose state per element means "nothing seen yet" where it is 0, but for these:"""
_FILLS = {("Adagrad", "sum"): "initial_accumulator_value", ("Rprop", "step_size"): "lr"}
_UNKNOWN = f"the meaning of its state is not known (known: {', '.join(_FAMILIES)}, and subclasses of them)"
_PER_TENSOR = frozenset({"step", "mu_product", "eta", "mu"})
_START = {"step": 0, "mu_product": 1}


def family_name(optimizer: Optimizer) -> str | None:
    """Which of torch's optimizers it is or derives from; None for any other."""
    names = (b.__name__ for b in type(optimizer).__mro__ if b.__module__.startswith("torch.optim"))
    return next((name for name in names if name in _FAMILIES), None)


class Holders:
    """Which optimizer and parameter group each parameter is in. A parameter may be in several optimizers."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._of: dict[int, list[Holder]] = {}
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    self._of.setdefault(id(parameter), []).append((optimizer, group))

    def of(self, parameter: Tensor) -> list[Holder]:
        """Every (optimizer, group) the parameter is in; empty when it is in none."""
        return self._of.get(id(parameter), [])

    def first(self, parameters: Iterable[Tensor]) -> Holder | None:
        """The first (optimizer, group) that holds any of the parameters."""
        return next((holder for p in parameters for holder in self.of(p)), None)


def moments(parameter: Tensor, holder: Holder, *, component: str, name: str) -> list[tuple[Tensor, float]]:
    """Per-element state tensors of a parameter, each with the value that means "nothing seen yet".

    Args:
        parameter: a parameter in the holder's group.
        holder: (optimizer, group).
        component, name: of treatment and parameter, for the error message.

    Returns:
        (state tensor of the parameter's shape, fill value) pairs; empty before the optimizer's first step.

    Raises:
        Refused: an unknown optimizer class keeps state (LBFGS: one flat state for all parameters together), or a
            state tensor has another shape than the parameter (factored, low-rank, quantised or flattened state).
    """
    optimizer, group = holder
    family, found = family_name(optimizer), []
    state = optimizer.state[parameter] if parameter in optimizer.state else None
    if state is None and family is None and any(map(_holds_tensors, optimizer.state.values())):
        raise Refused(component, name, f"{_class(optimizer)}: {_UNKNOWN}")
    for key, value in (state or {}).items():
        if key in _PER_TENSOR or not isinstance(value, Tensor):
            if _holds_tensors(value):
                raise Refused(component, name, f"state {key!r} of {_class(optimizer)} is not per element")
            continue
        if value.shape != parameter.shape:
            if value.numel() > 1:
                raise Refused(component, name, f"state {key!r} of {_class(optimizer)} is not per element")
        elif family is None:
            raise Refused(component, name, f"{_class(optimizer)}: {_UNKNOWN}")
        else:
            found.append((value, float(group[_FILLS[family, key]]) if (family, key) in _FILLS else 0.0))
    return found


def restart(parameter: Tensor, holder: Holder, undo: UndoLog) -> None:
    """Restart the step counts of a parameter in place; with its moments cleared it is as never stepped.

    Raises:
        Refused: fused SGD with dampening, which cannot begin one tensor anew.
    """
    optimizer, group = holder
    state = optimizer.state[parameter] if parameter in optimizer.state else {}
    for key, start in _START.items():
        if isinstance(value := state.get(key), Tensor):
            undo.save(value)
            value.fill_(start)
        elif value is not None:
            undo.push(lambda key=key, value=value: state.__setitem__(key, value))
            state[key] = type(value)(start)
    if group.get("dampening") and (velocity := state.get("momentum_buffer")) is not None:
        # torch recognises the first step, which has no dampening, by the missing buffer
        if group.get("fused"):
            raise Refused("edits", _class(optimizer), "fused with dampening, it cannot reset a single tensor")
        undo.push(lambda: state.__setitem__("momentum_buffer", velocity))
        state["momentum_buffer"] = None


def _holds_tensors(value: object) -> bool:
    """Whether a dictionary or sequence, or one inside it, holds a tensor of more than one number."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(_holds_tensors(part) or (isinstance(part, Tensor) and part.numel() > 1) for part in value)
    return False


def _class(optimizer: Optimizer) -> str:
    return type(optimizer).__name__


def join(holder: Holder, parameter: Tensor, name: str) -> Callable[[], object]:
    """Add a parameter to a group of a running optimizer, so that its next step trains it; returns the inverse.

    Raises:
        Refused: the optimizer keeps one state for all its parameters together (LBFGS).
    """
    optimizer, group = holder
    check_mutable(optimizer, name)
    _insert(group, len(group["params"]), parameter, name)
    if isinstance(optimizer, torch.optim.Adagrad):  # the only torch optimizer that makes its state in its constructor
        fill = group.get("initial_accumulator_value", 0.0)
        optimizer.state[parameter] = {"step": torch.tensor(0.0), "sum": torch.full_like(parameter.detach(), fill)}
    return lambda: _remove(holder, parameter)


def leave(holder: Holder, parameter: Tensor, name: str) -> Callable[[], object]:
    """Take a parameter and its state out of an optimizer; returns the inverse.

    Raises:
        Refused: as in `join`.
    """
    optimizer, group = holder
    check_mutable(optimizer, name)
    at, state = _remove(holder, parameter)

    def back() -> None:
        _insert(group, at, parameter, name)
        if state is not None:
            optimizer.state[parameter] = state

    return back


def substitute(
    holder: Holder, old: nn.Parameter, new: nn.Parameter, grown: Callable[[Tensor, float], Tensor], name: str
) -> Callable[[], object]:
    """Put a longer parameter in the place of a parameter, at the same position of its group; returns the inverse.

    Args:
        grown: given a per-element state tensor and the value that means "nothing seen yet", returns the longer one.
            Per-tensor state (step counts) is copied.

    Raises:
        Refused: as in `join` and `moments`.
    """
    optimizer, group = holder
    check_mutable(optimizer, name)
    fills = {id(state): fill for state, fill in moments(old, holder, component="growth", name=name)}
    at = next(i for i, p in enumerate(group["params"]) if p is old)
    state = optimizer.state.pop(old, None)
    group["params"][at] = new
    if state is not None:
        optimizer.state[new] = {key: _carried(value, fills, grown) for key, value in state.items()}

    def back() -> None:
        group["params"][at] = old
        optimizer.state.pop(new, None)
        if state is not None:
            optimizer.state[old] = state

    return back


def _carried(value: Any, fills: dict[int, float], grown: Callable[[Tensor, float], Tensor]) -> Any:
    if not isinstance(value, Tensor):
        return value
    return grown(value, fills[id(value)]) if id(value) in fills else value.clone()


def check_mutable(optimizer: Optimizer, name: str) -> None:
    """Raises Refused when parameters cannot join, leave or change in it."""
    if isinstance(optimizer, torch.optim.LBFGS):
        raise Refused("edits of modules", name, "LBFGS keeps one flat state; parameters cannot join or leave it")


def _insert(group: Group, at: int, parameter: Tensor, name: str) -> None:
    group["params"].insert(at, parameter)
    if "param_names" in group:
        group["param_names"].insert(at, name)


def _remove(holder: Holder, parameter: Tensor) -> tuple[int, Any]:
    optimizer, group = holder
    at = next(i for i, p in enumerate(group["params"]) if p is parameter)
    del group["params"][at]
    if "param_names" in group:
        del group["param_names"][at]
    return at, optimizer.state.pop(parameter, None)
