"""A copy of the network in which the output of every layer is pinned, so that a change affects direct users only."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from homeostat.core.random import Draw
from homeostat.shell.hooks.module_tree import named_modules_in, named_parameters_in, parameters_in
from homeostat.shell.hooks.random_streams import reseed
from homeostat.shell.hooks.torch_internals import own_parameters, without_torch_functions
from homeostat.shell.unit_graph.attention import attend
from homeostat.shell.unit_graph.functional_calls import Call, Calls, LayerCall, NormCall
from homeostat.shell.unit_graph.module_roles import ModuleRoles, Part, Role, module_roles, tensors_in
from homeostat.shell.unit_graph.sandbox import Untraceable, map_tensors, private_copy

RETURN = "."
"""Stands for a path: the return value of the network."""
SOURCES = (Role.UNITS, Role.RECURRENT, Role.OPAQUE)
"""Roles whose outputs are pinned."""
READERS = (Role.UNITS, Role.RECURRENT, Role.NORM, Role.SLOPE)
"""Roles whose inputs show which unit is used where."""


@dataclass(frozen=True, order=True)
class Spot:
    """One observed tensor: an input of a layer, a norm or an opaque module, or the return value of the network.

    Args:
        path: of the module, or `RETURN`.
        call: number of earlier calls of the module in this forward pass.
        item: index among the tensors found there.
    """

    path: str
    call: int = 0
    item: int = 0


Snapshot = dict[Spot, Tensor]
"""Spot -> values, features last [N, F]. If features have no meaning (opaque modules, the return value), F is 1."""
Slot = tuple[str, int, int]
Side = Literal["input", "output"]


@dataclass(frozen=True)
class Palette:
    """Values of pinned outputs: `first` normally, `second` where a unit is selected. Drawn for each slot from a seed.

    "narrow" keeps every common activation responsive: U(0.1, 0.4) against U(0.5, 0.9). "wide" covers both signs:
    2 N(0, 1) against another draw of it. "still" is narrow, but each unit has one value at all positions and in all
    samples, so that an average over positions (attention) gives that value whatever its weights are. A number means
    that constant everywhere.
    """

    name: str | float

    def draw(self, slot: Slot, like: Tensor, axis: int = -1) -> tuple[Tensor, Tensor]:
        """First and second values for a slot, of the shape, dtype and device of `like`; units along `axis`."""
        if not isinstance(self.name, str):
            constant = torch.full_like(like, float(self.name))
            return constant, constant
        draw = Draw(0, (self.name, *slot))
        if self.name == "wide":
            return 2 * draw.normal("first", like), 2 * draw.normal("second", like)
        if self.name == "still":
            size = [n if d == axis % max(like.ndim, 1) else 1 for d, n in enumerate(like.shape)]
            like = torch.empty(size, dtype=like.dtype, device=like.device)
        return 0.1 + 0.3 * draw.uniform("first", like), 0.5 + 0.4 * draw.uniform("second", like)


NARROW, WIDE, STILL = Palette("narrow"), Palette("wide"), Palette("still")


class PinnedCopy:
    """The copy, its sources (everything that is pinned, and the inputs) and passes with chosen values.

    Attributes:
        parts: the copy's modules by role, and the parameters it uses as layers in calls of functions.
        sources: name -> first and one-past-last global unit number. Layers have one number a unit; inputs, embeddings
            and opaque modules have one number each.
        calls: path -> number of its calls in a forward pass.
        passing: (path, "input" or "output") -> the first tensor there in the unmodified pass.
        modules: path -> module of the copy.
        passes: forward passes run so far, and `seconds` spent in them.
        deadline: end of the time for tracing, by `time.perf_counter`.
    """

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool = False) -> None:
        self.model, self.training = private_copy(model, training), training
        self.args, self.kwargs = args, kwargs
        self.parts: ModuleRoles = module_roles(self.model)
        self.modules = dict(named_modules_in(self.model))
        self.calls: dict[str, int] = {}
        self.passing: dict[tuple[str, Side], Tensor] = {}
        self.sources: dict[str, tuple[int, int]] = {}
        self.passes, self.seconds, self.deadline = 0, 0.0, math.inf
        self._values: dict[Slot, tuple[Tensor, Tensor]] = {}
        self._values_of = NARROW
        self._templates: dict[tuple[str, int], Any] = {}
        self._palette, self._mask = NARROW, torch.zeros(0, dtype=torch.bool)
        self._silent = torch.zeros(0, dtype=torch.bool)
        self._snapshot: Snapshot = {}
        self._parameter_calls = Calls(self.parts.parameters, self._called)
        self._scatter_parameters()
        for part in self.parts.of(*Role):
            if part.role is not Role.CONTAINER:
                self._install(part)
        self._recording = True
        self.run(NARROW)  # shows which parameters are used as layers in calls of functions
        self._close_unseen()
        self._number_sources()
        self.base = self.run(NARROW)
        self._recording = False

    def uncalled(self) -> set[str]:
        """Trainable layers that the forward pass did not use."""
        return {
            part.path
            for part in self.parts.of(*SOURCES)
            if part.path not in self.calls and any(p.requires_grad for p in parameters_in(part.module))
        }

    @property
    def total(self) -> int:
        """Number of unit numbers."""
        return max((end for _, end in self.sources.values()), default=0)

    def mask(self, name: str) -> Tensor:
        """The mask that selects everything of one source."""
        start, end = self.sources[name]
        mask = torch.zeros(self.total, dtype=torch.bool)
        mask[start:end] = True
        return mask

    def run(self, palette: Palette, mask: Tensor | None = None, silent: Tensor | None = None) -> Snapshot:
        """One forward pass of the copy.

        Args:
            palette: values of the pinned outputs.
            mask: global units that take the palette's second value [total].
            silent: global units that are zero instead [total].

        Raises:
            Untraceable: the forward takes another path than in the first pass, so passes cannot be compared.
        """
        none = torch.zeros(self.total, dtype=torch.bool)
        self._palette, self._mask = palette, none if mask is None else mask
        self._silent = none if silent is None else silent
        self._snapshot, self.calls = {}, {}
        began = time.perf_counter()
        reseed()
        args, kwargs = self._inputs()
        with self._parameter_calls:
            result = self.model(*args, **kwargs)
        self._observe(RETURN, 0, result, None)
        snapshot, self._snapshot = self._snapshot, {}
        self.passes, self.seconds = self.passes + 1, self.seconds + time.perf_counter() - began
        if not self._recording and (
            snapshot.keys() != self.base.keys() or any(snapshot[s].shape != self.base[s].shape for s in snapshot)
        ):
            raise Untraceable("its forward takes another path for other values, so layers cannot be followed")
        return snapshot

    def late(self, passes: int) -> float:
        """Seconds by which so many more passes would exceed the deadline; 0 if they would not."""
        # comparing the results takes about as long as the passes
        done = time.perf_counter() + 2 * passes * self.seconds / max(self.passes, 1)
        return max(0.0, done - self.deadline)

    def _number_sources(self) -> None:
        total = 0
        for part in self.parts.of(*SOURCES):
            self.sources[part.path] = (total, total + part.width)
            total += part.width
        for index, tensor in enumerate(tensors_in((self.args, self.kwargs))):
            if _perturbable(tensor, index == 0):
                self.sources[f"input {index}"] = (total, total + 1)
                total += 1

    def _scatter_parameters(self) -> None:
        """Draw all parameters again, because zero or identity initial values would hide a dependence."""
        for name, parameter in named_parameters_in(self.model):
            if parameter.is_floating_point():
                fan_in = max(parameter[0].numel() if parameter.ndim > 1 else 1, 1)
                parameter.data.copy_((0.5 + Draw(0).uniform(name, parameter)) / fan_in)

    def _inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        counter = iter(range(10**6))

        def changed(tensor: Tensor) -> Tensor:
            index = next(counter)
            name = f"input {index}"
            if name in self.sources and bool(self._mask[self.sources[name][0]]):
                return tensor + 0.5 + 0.4 * Draw(0).uniform(name, tensor)
            return tensor.clone()

        return map_tensors(changed, (self.args, self.kwargs))

    def _observe(self, path: str, call: int, value: Any, axis: int | None) -> None:
        with without_torch_functions():
            for item, tensor in enumerate(tensors_in(value)):
                self._snapshot[Spot(path, call, item)] = by_feature(tensor.detach().clone(), axis)

    def _enter(self, part: Part, value: Any) -> int:
        """A part is called; returns the number of this call."""
        call = self._count(part.path)
        self._pass_by(part.path, "input", value)
        if part.role in (*READERS, Role.OPAQUE):
            self._observe(part.path, call, value, None if part.role is Role.OPAQUE else part.axis)
        return call

    def _pass_by(self, path: str, side: Side, value: Any) -> None:
        if self._recording and (tensors := tensors_in(value)):
            with without_torch_functions():
                self.passing[path, side] = tensors[0].detach().clone()

    def _count(self, path: str) -> int:
        call = self.calls.get(path, 0)
        self.calls[path] = call + 1
        return call

    def _install(self, part: Part) -> None:
        original = part.module.forward
        if part.role is Role.ATTENTION:
            original = functools.partial(attend, part.module)  # type: ignore[arg-type]

        def forward(*args: Any, **kwargs: Any) -> Any:
            now = self.parts.parts[part.path]
            call = self._enter(now, (args, kwargs))
            if now.role is Role.NORM:
                return next(iter(tensors_in((args, kwargs))))
            if now.role in SOURCES:
                return self._pinned(now, call, lambda: original(*args, **kwargs))
            output = original(*args, **kwargs)
            self._pass_by(part.path, "output", output)
            return output

        part.module.forward = forward

    def _called(self, found: Call, compute: Callable[[], Any]) -> Any:
        """Handle a function call that uses a parameter as a layer, or a norm."""
        if isinstance(found, NormCall):
            path = found.own[0] if found.own else f"{found.name} {self._count(found.name)}"
            name = path.removesuffix(".weight")
            made = functools.partial(Part, path, self.model, Role.NORM, found.axis, own=found.own, mixes=True)
            self._enter(self._known(path, lambda: made(label=name)), found.input)
            return found.input
        part = self._known(found.name, lambda: self._function(found))
        return self._pinned(part, self._enter(part, found.input), compute)

    def _known(self, path: str, make: Callable[[], Part]) -> Part:
        if path not in self.parts.parts:
            if not self._recording:
                raise Untraceable("its forward takes another path for other values, so layers cannot be followed")
            self.parts.add(make())
        return self.parts.parts[path]

    def _function(self, found: LayerCall) -> Part:
        owner = found.weight.rpartition(".")[0]
        module = self.model.get_submodule(owner)
        known = self.parts.parts.get(owner)
        # the weight represents its module, unless that has another role (an embedding table used as a matrix)
        plain = found.name == f"{owner}.weight" and (known is None or known.role in (Role.OPEN, Role.CONTAINER))
        label = owner if plain else found.name
        return Part(found.name, module, Role.UNITS, found.layout.axis, layout=found.layout, label=label)

    def _close_unseen(self) -> None:
        """Make leaves opaque whose matrices were not used in followed calls."""
        for part in self.parts.of(Role.OPEN):
            own = [p for p in own_parameters(part.module).values() if p is not None]
            seen = {user for p in own for user in self.parts.claims.get(id(p), ())} - {part.path}
            if not seen and any(p.ndim > 1 for p in own):
                self.parts.add(replace(part, role=Role.OPAQUE))

    def _pinned(self, part: Part, call: int, compute: Callable[[], Any]) -> Any:
        counter = iter(range(10**6))
        with without_torch_functions():  # calls inside a layer are not followed
            if self._recording:
                self._templates[part.path, call] = compute()
            if (part.path, call) not in self._templates:
                raise Untraceable("its forward calls layers in another order for other values")
            return map_tensors(lambda t: self._filled(part, call, next(counter), t), self._templates[part.path, call])

    def _filled(self, part: Part, call: int, item: int, like: Tensor) -> Tensor:
        if not like.is_floating_point():
            return like.clone()
        first, second = self._pair((part.path, call, item), like, part.axis)
        start, end = self.sources.get(part.path, (0, 0))
        filled = _choose(self._mask[start:end], second, first, part.axis)
        silent = self._silent[start:end]
        if bool(silent.any()):
            filled = _choose(silent, torch.zeros_like(first), filled, part.axis)
        return filled.expand_as(like).clone()

    def _pair(self, slot: Slot, like: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        if self._values_of != self._palette:
            self._values, self._values_of = {}, self._palette
        if slot not in self._values:
            self._values[slot] = self._palette.draw(slot, like, axis)
        return self._values[slot]


def by_feature(tensor: Tensor, axis: int | None) -> Tensor:
    """A tensor as [N, F] with the features of an axis (negative, or 1) last; all as one feature without an axis."""
    if axis is None or tensor.ndim == 0:
        return tensor.reshape(-1, 1)
    return tensor.movedim(min(axis, tensor.ndim - 1), -1)[None].flatten(0, -2)


def _choose(chosen: Tensor, yes: Tensor, no: Tensor, axis: int) -> Tensor:
    """`yes` for chosen units, `no` elsewhere."""
    if not bool(chosen.any()):
        return no
    if bool(chosen.all()):
        return yes
    return torch.where(chosen.to(no.device).reshape(-1, *[1] * (-axis - 1)), yes, no)


def _perturbable(tensor: Tensor, first: bool) -> bool:
    """Floating-point inputs are sources. Masks of 0, 1 and -inf are not, unless they are the main input of the
    network."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return False
    maskish = (tensor == 0) | (tensor == 1) | torch.isneginf(tensor)
    return first or not bool(maskish.all())
