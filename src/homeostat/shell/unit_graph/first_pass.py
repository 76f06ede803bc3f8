"""Finds where the units of each layer can be read, from the user's first forward pass.

Hooks on every module note its inputs and outputs; the autograd graph of that pass shows how they are connected. There
is no additional forward pass.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from homeostat.shell.hooks.module_hooks import MODULE_HOOKS, Side
from homeostat.shell.hooks.module_tree import named_modules_in
from homeostat.shell.hooks.torch_internals import DROPOUT, is_plain, own_parameters, recorded_elsewhere, unseen
from homeostat.shell.unit_graph.activation_points import ACTIVATIONS, MAX_ROWS, Tap, match_function, positions
from homeostat.shell.unit_graph.autograd_flow import Key, Place, between, graph_users, passed, squeezed, unit_owner
from homeostat.shell.unit_graph.module_roles import Role, role_of, tensors_in
from homeostat.shell.unit_graph.sandbox import cut_batch
from homeostat.shell.unit_graph.weight_layout import UNIT_AXIS, unit_class

LARGEST_KEPT = 100_000
"""Largest number of elements in a call's arguments that are all stored."""
_ENDS = (Role.UNITS, Role.RECURRENT, Role.ATTENTION, Role.OPAQUE)
"""Roles of modules that make new units from their input."""


@dataclass(frozen=True, eq=False)
class Heard:
    """The first tensor among the inputs or outputs of a module.

    Args:
        order: number of events before this one.
        head: the first items, detached: enough for `MAX_ROWS` rows.
    """

    order: int
    path: str
    module: nn.Module
    side: Side
    key: Key
    ndim: int
    head: Tensor
    training: bool


@dataclass(frozen=True, eq=False)
class _Readable:
    event: Heard
    tap: Tap
    gated: bool


class FirstPass:
    """Observes one forward pass of a network with gradients.

    Args:
        model: the network.
        guard: catches and reports errors inside the user's pass.
        on_end: called when the network itself returns.

    Attributes:
        calls: path -> calls of that module, with gradients.
        made: path -> its output, for modules that returned ordinary tensors.
        hidden: whether a layer was called without gradients meanwhile, as in gradient checkpointing.
    """

    def __init__(
        self, model: nn.Module, guard: Callable[[str], AbstractContextManager[None]], on_end: Callable[[], None]
    ) -> None:
        self._model, self._guard, self._on_end = weakref.ref(model), guard, on_end
        self.calls: dict[str, int] = {}
        self._events: dict[tuple[str, str], Heard] = {}
        self.made: dict[str, list[Key]] = {}
        self.hidden = False
        self._values: dict[int, tuple[weakref.ref[Tensor], Key]] = {}
        self._handles: list[Any] = []
        for path, module in named_modules_in(model):
            for side in get_args(Side):
                self._handles.append(MODULE_HOOKS.place(module, side, _Hook(self, path, side)))

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The network itself is being called. A hook on it comes too late for this call."""
        if (model := self._model()) is not None:
            self.hear("", model, "input", (args, kwargs))

    def remove(self) -> None:
        """Remove all hooks; the observations stay."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def hear(self, path: str, module: nn.Module, side: Side, value: Any) -> None:
        """Note a call."""
        if recorded_elsewhere():
            return
        if not torch.is_grad_enabled():
            self.hidden |= bool(self.calls.get("")) and bool(own_parameters(module))
            return
        with self._guard("looking at the first forward pass"):
            if side == "input":
                if module is self._model():
                    self._forget()
                self.calls[path] = self.calls.get(path, 0) + 1
            if (path, side) not in self._events and self.calls.get(path) == 1:
                with unseen():
                    self._note(path, module, side, [tensor for tensor in tensors_in(value) if is_plain(tensor)])
            if side == "output" and module is self._model():
                self._on_end()

    def _forget(self) -> None:
        """The network is called again, but an earlier call did not end."""
        self.calls, self._events, self.made, self._values, self.hidden = {}, {}, {}, {}, False

    def _note(self, path: str, module: nn.Module, side: Side, tensors: list[Tensor]) -> None:
        if not tensors:
            return
        keys, order = [self._key(tensor) for tensor in tensors], len(self._events)
        if side == "output":
            self.made[path] = keys
        first = tensors[0]
        event = Heard(order, path, module, side, keys[0], first.ndim, _head(first), module.training)
        self._events[path, side] = event

    def _key(self, tensor: Tensor) -> Key:
        if tensor.grad_fn is not None:
            return tensor.grad_fn, tensor.output_nr
        known = self._values.get(id(tensor))
        if known is None or known[0]() is not tensor:
            known = weakref.ref(tensor), ("value", len(self._values))
            self._values[id(tensor)] = known
        return known[1]

    def taps(self) -> dict[str, tuple[Tap, Heard]]:
        """Layer -> where its units can be read, and their values in this pass."""
        return _Resolved(self._events, self.made, self.calls).taps()


class _Hook:
    def __init__(self, owner: FirstPass, path: str, side: Side) -> None:
        self._owner, self._path = owner, path
        self._side: Side = side

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
        self._owner.hear(self._path, module, self._side, (args, kwargs) if self._side == "input" else output)


def ordinary(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the tensors of a call are ordinary tensors with values."""
    with unseen():
        return not recorded_elsewhere() and all(map(is_plain, tensors_in((args, kwargs))))


def small_copy(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """A copy of a call's arguments with at most a few items; None if they are not only plain tensors and numbers."""
    with unseen():
        tensors: list[Tensor] = []
        if not plain_values(args, tensors) or not plain_values(kwargs, tensors):
            return None
        batch = next((len(tensor) for tensor in tensors if tensor.ndim), 0)
        keep = batch if sum(tensor.numel() for tensor in tensors) <= LARGEST_KEPT else min(batch, 8)
        return cut_batch(args, batch, keep), cut_batch(kwargs, batch, keep)


def plain_values(value: Any, tensors: list[Tensor]) -> bool:
    """Whether a nested value is made of plain tensors and numbers only; the tensors are added to the list."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return is_plain(value)
    if isinstance(value, dict):
        return all(plain_values(item, tensors) for item in value.values())
    if isinstance(value, (tuple, list)):
        return all(plain_values(item, tensors) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _head(tensor: Tensor) -> Tensor:
    """The first items along the first axis, enough for `MAX_ROWS` rows with any feature axis."""
    if tensor.ndim == 0:
        return tensor.detach().clone()
    rows = max(tensor[:1].numel() // max(tensor.shape[1:], default=1), 1)
    return tensor.detach()[: -(-MAX_ROWS // rows)].clone()


class _Resolved:
    def __init__(self, events: dict[tuple[str, str], Heard], made: dict[str, list[Key]], calls: dict[str, int]) -> None:
        self.events = events
        # a network of which only parts are called may be called several times before a step ends
        once = min(calls.values(), default=1)
        self.once = {path for path, count in calls.items() if count == once}
        self.at: dict[Key, list[Heard]] = {}
        for event in sorted(events.values(), key=lambda event: event.order):
            self.at.setdefault(event.key, []).append(event)
        self.made = made
        self.users = graph_users({key[0] for key in self.at if _is_node(key)})
        self.inside = set[Any]()
        for path, module in {event.path: event.module for event in events.values()}.items():
            if self._is_one(module):
                self._close(path)
        self.returned = set(made.get("", ()))
        self.layers = {
            event.key[0]
            for (_, side), event in events.items()
            if side == "output" and _makes_units(event.module) and _is_node(event.key)
        }

    def _close(self, path: str) -> None:
        """Exclude the inner nodes of a module, which are not followed."""
        start = self.events.get((path, "input"))
        for key in self.made.get(path, ()):
            if start is not None and _is_node(key) and key != start.key:
                self.inside |= between(key[0], start.key[0] if _is_node(start.key) else None)

    @staticmethod
    def _is_one(module: nn.Module) -> bool:
        return (
            _makes_units(module)
            or role_of(module) is Role.NORM
            or type(module) in ACTIVATIONS
            or isinstance(module, DROPOUT)
        )

    def taps(self) -> dict[str, tuple[Tap, Heard]]:
        found: dict[str, tuple[Tap, Heard]] = {}
        for (path, side), event in self.events.items():
            if side != "output" or path not in self.once:
                continue
            role = role_of(event.module)
            if role is Role.RECURRENT:
                name = getattr(event.module, "nonlinearity", "unknown")
                found[path] = Tap(path, "output", -1, None, name), event
            elif (axis := _unit_axis(event)) is not None and (best := self._best(event, axis)) is not None:
                found[path] = best.tap, best.event
        return found

    def _best(self, made: Heard, axis: int) -> _Readable | None:
        if -axis > made.ndim:
            return None
        owner = unit_owner(made.head.shape[axis], made.ndim, axis)
        candidates, escaped = self._walk(made, Place(owner))
        known = [c for c in candidates if c.event.side == "output" and type(c.event.module) in ACTIVATIONS]
        bent = [c for c in candidates if c.tap.nonlinearity != "linear"]
        gated = [c for c in candidates if c.gated]
        if gated or known or bent:
            return (gated or known or bent)[0]
        # a sum that is used again, or the output of the network, is not an activation
        used = [c for c in candidates if c.event.side == "input" and _makes_units(c.event.module)]
        return None if escaped or not used else used[-1]

    def _walk(self, made: Heard, place: Place) -> tuple[list[_Readable], bool]:
        """The places where the units can be read, in the order of the pass, and whether they are also used
        elsewhere."""
        stack: list[tuple[Key, Place, Heard]] = [(made.key, place, made)]
        seen, found = set[Key](), list[_Readable]()
        escaped = False
        while stack:
            key, place, base = stack.pop()
            if key in seen:
                continue
            seen.add(key)
            escaped |= key in self.returned
            for event in self.at.get(key, ()):
                readable = event.path in self.once and role_of(event.module) is not Role.CONTAINER
                if readable and (tap := self._tap(event, place, base)) is not None:
                    found.append(_Readable(event, tap, place.gated))
                if event.side == "input":
                    stack += self._through(event, place, base)
            for node, slot in self.users.get(key, ()) if _is_node(key) else ():
                if node not in self.inside:
                    further = passed(node, slot, place, self.layers)
                    escaped |= further is None
                    stack += [(*further, base)] if further is not None else []
        return sorted(found, key=lambda c: c.event.order), escaped

    def _through(self, event: Heard, place: Place, base: Heard) -> Iterator[tuple[Key, Place, Heard]]:
        """Continue after a norm, an activation or a dropout."""
        out = self.events.get((event.path, "output"))
        if out is None or out.key == event.key or out.ndim != place.owner.ndim:
            return
        if (name := ACTIVATIONS.get(type(event.module))) is not None:
            if (applied := place.applied(name)) is not None:
                yield out.key, applied, base
        elif role_of(event.module) is Role.NORM:
            yield out.key, place, out if place.function == "linear" else base
        elif isinstance(event.module, DROPOUT):
            yield out.key, replace(place, aligned=False), base

    def _tap(self, event: Heard, place: Place, base: Heard) -> Tap | None:
        owner = squeezed(place.owner)
        axes = [axis for axis, size in enumerate(owner.shape) if size > 1] or [owner.ndim - 1]
        if len(axes) != 1 or owner.ndim != event.ndim:
            return None
        axis = axes[0] - owner.ndim
        along, width = owner.flatten(), int(owner.max()) + 1
        if len(along) != event.head.shape[axis] or (index := positions(along, width)) is None:
            return None
        plain = index.shape[1] == 1 and torch.equal(index[:, 0], torch.arange(len(along)))
        tap = Tap(event.path, event.side, axis, None if plain else index, place.function)
        if event.side == "output" and type(event.module) in ACTIVATIONS:
            return replace(tap, nonlinearity=ACTIVATIONS[type(event.module)])
        if place.aligned and (place.shifted or place.function in ("unknown", "elu", "hardtanh")):
            name = self._named(tap, event, base)
            if place.shifted and name is None and place.function not in ("linear", "unknown"):
                return None  # an activation plus something else is not an activation
            return replace(tap, nonlinearity=name or place.function)
        return tap

    @staticmethod
    def _named(tap: Tap, event: Heard, base: Heard) -> str | None:
        axis = _unit_axis(base) or (1 - base.ndim if base.ndim > 3 else -1)
        return match_function(replace(tap, index=None, axis=axis).units(base.head), tap.units(event.head))


def _unit_axis(event: Heard) -> int | None:
    """The axis, from the end, of the units that a module makes; None if it makes none."""
    if (base := unit_class(event.module)) is not None:
        return UNIT_AXIS[base]
    width = event.head.shape[-1] if event.ndim else 0
    return -1 if role_of(event.module) is Role.OPEN and any(width in p.shape for p in _matrices(event.module)) else None


def _makes_units(module: nn.Module) -> bool:
    role = role_of(module)
    return role in _ENDS or (role is Role.OPEN and bool(_matrices(module)))


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in own_parameters(module).values() if p is not None and p.ndim == 2]


def _is_node(key: Key) -> bool:
    return not isinstance(key[0], str)
