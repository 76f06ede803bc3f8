"""Twins: modules that do for R stacked replicas [R, B, ...] what a torch module does for one [B, ...].

A twin holds the parameters and buffers of its module under the same names, with a leading axis R. `lift` finds the twin
of a module by its type. A module type without a twin of its own becomes a `CustomTwin`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from homeostat.core.errors import BadInput
from homeostat.fleet.random_streams import RandomStreams
from homeostat.shell.unit_graph.activation_points import Tap

Modules = Sequence[nn.Module]
"""The same module of every replica."""


@dataclass(eq=False)
class Lifting:
    """What the twins of a network share.

    Args:
        streams: the random streams of the replicas.
        factored: whether `LinearTwin` keeps the factors of its weights' gradients instead of their product. Set for
            a step whose gradients are only used by an optimizer that takes factors.
        wanted: layer -> tap, for the layers whose activations are captured in this step.
        captured: layer -> captured activations [R, N, H], one entry per forward pass.
        routes: path of each `CustomTwin` -> the route that it takes and the reason.
    """

    streams: RandomStreams
    factored: bool = False
    wanted: dict[str, Tap] = field(default_factory=dict[str, Tap])
    captured: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Tensor]])
    routes: dict[str, str] = field(default_factory=dict[str, str])
    _stacked: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    _origins: list[Tensor] = field(default_factory=list[Tensor])

    def stack(self, tensors: Sequence[Tensor], path: str) -> Tensor:
        """The tensors of the replicas as one [R, ...]; a parameter if they are. A shared tensor is stacked once.

        Raises:
            BadInput: they differ in shape or dtype, or have no values yet.
        """
        first = tensors[0]
        if (known := self._stacked.get(id(first))) is not None:
            return known
        if any(is_lazy(t) or t.is_meta for t in tensors):
            raise BadInput(f"fleet: {path} has no values yet (lazy module or meta device)")
        if any(t.shape != first.shape or t.dtype != first.dtype for t in tensors):
            raise BadInput(f"fleet: {path} has shapes {sorted({tuple(t.shape) for t in tensors})} in the replicas")
        stacked = torch.stack([t.detach() for t in tensors])
        if isinstance(first, nn.Parameter):
            stacked = nn.Parameter(stacked, requires_grad=first.requires_grad)
        self._origins.append(first)  # keeps the id in use
        self._stacked[id(first)] = stacked
        return stacked

    def adopt(self, twin: nn.Module, modules: Modules, path: str) -> None:
        """Give a twin the stacked parameters and buffers that the modules themselves hold."""
        for name, first in modules[0].named_parameters(recurse=False):
            stacked = self.stack([m.get_parameter(name) for m in modules], f"{path}.{name}")
            assert first.shape == stacked.shape[1:]
            twin.register_parameter(name, stacked)  # type: ignore[arg-type]
        for name, _ in modules[0].named_buffers(recurse=False):
            twin.register_buffer(name, self.stack([m.get_buffer(name) for m in modules], f"{path}.{name}"))


Maker = Callable[[Modules, Lifting, str], "nn.Module | None"]
_MAKERS: dict[type[nn.Module], Maker] = {}


def twin_of(*kinds: type[nn.Module]) -> Callable[[Maker], Maker]:
    """Register a function that makes the twin of these module types, or returns None for settings it cannot lift."""

    def register(make: Maker) -> Maker:
        _MAKERS.update(dict.fromkeys(kinds, make))
        return make

    return register


def lift(modules: Modules, lifting: Lifting, path: str = "") -> nn.Module:
    """The twin of one module in R networks.

    Raises:
        BadInput: the networks of the replicas differ in structure.
    """
    from homeostat.fleet.twins.custom import CustomTwin

    first = modules[0]
    # by name, because torch makes a class of its own for every parametrized module
    kinds = sorted({type(module).__qualname__ for module in modules})
    if len(kinds) > 1:
        raise BadInput(f"fleet: {path or 'the network'} is {' or '.join(kinds)}: every seed must make the same network")
    make = _MAKERS.get(type(first))
    twin = make(modules, lifting, path) if make is not None else None
    if twin is None:
        twin = CustomTwin(modules, lifting, path)
    names = {n for n, _ in (*first.named_parameters(), *first.named_buffers())}
    found = {n for n, _ in (*twin.named_parameters(), *twin.named_buffers())}
    if names != found:
        raise BadInput(f"fleet: {path or 'the network'}: tensors {sorted(names ^ found)[:3]} are not in every replica")
    return twin.train(first.training)


def lifted_children(modules: Modules, lifting: Lifting, path: str) -> dict[str, nn.Module]:
    """Name -> twin of every child.

    Raises:
        BadInput: the replicas have different children.
    """
    many = [dict(module.named_children()) for module in modules]
    if any(children.keys() != many[0].keys() for children in many):
        raise BadInput(f"fleet: {path or 'the network'} has different parts in the replicas")
    below = f"{path}." if path else ""
    return {name: lift([c[name] for c in many], lifting, f"{below}{name}") for name in many[0]}


def plain_copy(module: nn.Module) -> nn.Module:
    """A copy of a module without parameters, which works on [R, B, ...] as it is."""
    return copy.deepcopy(module)
