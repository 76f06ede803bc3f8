"""Modules of other types: their own forward on stacked tensors, under `torch.func.vmap`, or replica by replica."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from homeostat.core.signals import pass_on
from homeostat.fleet.twins.twin import Lifting, Modules, lifted_children
from homeostat.shell.unit_graph.activation_points import Tap
from homeostat.shell.unit_graph.module_roles import tensors_in
from homeostat.shell.unit_graph.sandbox import map_tensors

RELATIVE, ABSOLUTE = 1e-3, 1e-5
"""How far the outputs of a route may be from those of the replicas one by one."""
Captured = dict[str, Tensor]
Route = Callable[[tuple[Any, ...], dict[str, Any]], Any]


class CustomTwin(nn.Module):
    """R modules of a type that has no twin. Takes the first of three routes that gives the right outputs:

        stacked   the module's own forward on tensors [R, B, ...], with twins in the place of its parts and its own
                  parameters as [R, 1, ...]
        vmap      the module's own forward under `torch.func.vmap`
        loop      the replicas one after another, each with its own random stream

    The last one is always right (it runs the module itself), and the others are compared with it: at the first call in
    training and in evaluation mode, and again when an axis of an input that had one element has more. Attributes of
    the module that are no tensors are shared by the replicas.
    """

    def __init__(self, modules: Modules, lifting: Lifting, path: str) -> None:
        super().__init__()
        lifting.adopt(self, modules, path)
        for name, child in lifted_children(modules, lifting, path).items():
            self.add_module(name, child)
        self._lifting, self._path, self._replicas = lifting, path, len(modules)
        # in a list, so that they are no children
        self._template, self._shell = [copy.deepcopy(modules[0])], [self._make_shell(modules[0])]
        self._routes: dict[tuple[object, ...], Route] = {}

    def _make_shell(self, module: nn.Module) -> nn.Module:
        """A copy of the module with twins as children, and without parameters and buffers of its own."""
        shell = copy.deepcopy(module)
        for name, child in self.named_children():
            setattr(shell, name, child)
        for name in self._own():
            delattr(shell, name)
        return shell

    def _own(self) -> dict[str, Tensor]:
        """The stacked parameters and buffers of this module itself."""
        return {**dict(self.named_parameters(recurse=False)), **dict(self.named_buffers(recurse=False))}

    def train(self, mode: bool = True) -> CustomTwin:
        super().train(mode)
        for module in (*self._template, *self._shell):
            module.train(mode)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        sizes = tuple(tuple(min(size, 2) for size in t.shape) for t in tensors_in((args, kwargs)))
        key = (self.training, sizes)
        if key not in self._routes:
            self._routes[key] = self._chosen(args, kwargs)
        return self._routes[key](args, kwargs)

    # ---- the three routes

    def _stacked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        (shell,) = self._shell
        for name, tensor in self._own().items():
            setattr(shell, name, tensor.unsqueeze(1))
        return shell(*args, **kwargs)

    def _vmapped(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors, shape = list(tensors_in((args, kwargs))), list[Any]()

        def one(own: dict[str, Tensor], given: list[Tensor]) -> tuple[list[Tensor], Captured]:
            captured: Captured = {}
            some_args, some_kwargs = _filled((args, kwargs), given)
            with _listening(self._template[0], self._inside(), captured):
                outputs = functional_call(self._template[0], own, some_args, some_kwargs)
            shape[:] = [outputs]
            return list(tensors_in(outputs)), captured

        with warnings.catch_warnings():  # about functions that vmap runs one by one
            warnings.simplefilter("ignore")
            outputs, captured = vmap(one)(self._tensors(), tensors)
        self._keep([{layer: part[r] for layer, part in captured.items()} for r in range(self._replicas)])
        return _filled(shape[0], outputs)

    def _looped(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        many: list[Any] = []
        captured: list[Captured] = [{} for _ in range(self._replicas)]
        own = {name: tensor.unbind() for name, tensor in self._tensors().items()}
        for r in range(self._replicas):
            some_args, some_kwargs = map_tensors(lambda t, r=r: t[r], (args, kwargs))
            parts = {name: each[r] for name, each in own.items()}
            with self._lifting.streams.as_global(r), _listening(self._template[0], self._inside(), captured[r]):
                many.append(functional_call(self._template[0], parts, some_args, some_kwargs))
        self._keep(captured)
        columns = zip(*(tensors_in(outputs) for outputs in many), strict=True)
        return _filled(many[0], [torch.stack(column) for column in columns])

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def _inside(self) -> dict[str, Tap]:
        """The taps of this step that lie inside this module, by layer, with paths from here."""
        below = f"{self._path}." if self._path else ""
        wanted = self._lifting.wanted.items()
        inside = {layer: tap for layer, tap in wanted if tap.module != self._path and tap.module.startswith(below)}
        return {
            layer: Tap(tap.module.removeprefix(below), tap.side, tap.axis, tap.index, tap.nonlinearity)
            for layer, tap in inside.items()
        }

    def _keep(self, captured: list[Captured]) -> None:
        for layer in captured[0]:
            stacked = torch.stack([part[layer] for part in captured])
            self._lifting.captured.setdefault(layer, []).append(stacked)

    # ---- the choice

    def _chosen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Route:
        """The first route that does what the replicas one by one do to outputs, buffers and random streams."""
        streams = self._lifting.streams
        buffers = dict(self.named_buffers())
        before, at = {n: b.clone() for n, b in buffers.items()}, streams.state_dict()
        heard, self._lifting.wanted = self._lifting.wanted, {}

        def tried(route: Route) -> tuple[list[Tensor], list[Tensor]]:
            with torch.no_grad():
                outputs = [t.clone() for t in tensors_in(route(args, kwargs))]
            left = [b.clone() for b in buffers.values()] + streams.state_dict()
            return outputs, left

        def restored() -> None:
            streams.load_state_dict(at)
            for name, buffer in buffers.items():
                buffer.copy_(before[name])

        reasons: list[str] = []
        try:
            truth = tried(self._looped)
            restored()
            for name, route in (("stacked", self._stacked), ("vmap", self._vmapped)):
                try:
                    wrong = _difference(tried(route), truth)
                except Exception as error:  # any error of the module's own code on tensors it was not written for
                    pass_on(error)
                    wrong = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120] if str(error) else ''}"
                restored()
                if not wrong:
                    return self._took(name, reasons, route)
                reasons.append(f"not {name}: {wrong}")
        finally:
            restored()
            self._lifting.wanted = heard
        return self._took("loop", reasons, self._looped)

    def _took(self, name: str, reasons: list[str], route: Route) -> Route:
        place = self._path if self.training else f"{self._path} (evaluation)".strip()
        self._lifting.routes[place] = f"{name} ({'; '.join(reasons)})" if reasons else name
        return route


def _filled(value: Any, tensors: list[Tensor]) -> Any:
    """A nested value with its tensors replaced, in order."""
    rest: Iterator[Tensor] = iter(tensors)
    return map_tensors(lambda _: next(rest), value)


class _listening:
    """Inside the block, hooks put the units at taps of a module [N, H] into a dictionary."""

    def __init__(self, module: nn.Module, taps: Mapping[str, Tap], into: Captured) -> None:
        self._module, self._taps, self._into = module, taps, into
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for layer, tap in self._taps.items():
            place = self._module.get_submodule(tap.module)

            def hook(module: nn.Module, args: Any, kwargs: Any, output: Any = None, layer=layer, tap=tap) -> None:
                if (tensor := tap.read(args, kwargs, output)) is not None:
                    rows = tap.units(tensor.detach()).clone()
                    into = self._into
                    into[layer] = torch.cat([into[layer], rows]) if layer in into else rows

            if tap.side == "input":
                self._handles.append(place.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                self._handles.append(place.register_forward_hook(hook, with_kwargs=True))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def _difference(found: tuple[list[Tensor], list[Tensor]], truth: tuple[list[Tensor], list[Tensor]]) -> str:
    """In what a route differs from the replicas one by one; "" if in nothing."""
    for what, some, others in zip(("outputs", "buffers or random streams"), found, truth, strict=True):
        if [t.shape for t in some] != [t.shape for t in others]:
            return f"its {what} have other shapes"
        for one, other in zip(some, others, strict=True):
            if one.is_floating_point() or one.is_complex():
                close = torch.allclose(one, other, RELATIVE, ABSOLUTE, equal_nan=True)
            else:
                close = torch.equal(one, other)
            if not close:
                return f"its {what} differ"
    return ""
