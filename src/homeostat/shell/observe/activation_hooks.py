"""Reads the outputs of units in the user's forward passes, with hooks that are installed only when needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from homeostat.shell.hooks.clock import CLOCK
from homeostat.shell.hooks.module_hooks import MODULE_HOOKS
from homeostat.shell.hooks.module_tree import named_modules_in
from homeostat.shell.hooks.torch_internals import in_backward, is_plain, recorded_elsewhere, unseen
from homeostat.shell.network import Network
from homeostat.shell.observe.compiled import eager_pass, on_call
from homeostat.shell.unit_graph.activation_points import MAX_ROWS, Tap

Guarding = Callable[[str], AbstractContextManager[None]]


class Sink:
    """Rows [n, H] captured at one tap since the last `take`, at most `MAX_ROWS`.

    If a step has forward passes in training mode, those in evaluation mode do not count: they are an evaluation without
    `no_grad`. Recomputation in the backward pass (gradient checkpointing) counts only if the first pass was not seen.
    """

    def __init__(self) -> None:
        self._rows: dict[bool, list[Tensor]] = {True: [], False: []}
        self._first_pass = False

    def wants(self, training: bool) -> bool:
        """Whether the current pass counts."""
        again = in_backward()
        self._first_pass |= not again
        return not (again and self._first_pass) and sum(map(len, self._rows[training])) < MAX_ROWS

    def __len__(self) -> int:
        return sum(len(rows) for kept in self._rows.values() for rows in kept)

    def add(self, rows: Tensor, training: bool) -> None:
        """Store a copy, because in-place operations may follow."""
        if len(rows):
            self._rows[training].append(rows[:MAX_ROWS].clone())

    def take(self) -> Tensor | None:
        """All stored rows, concatenated; None if there are none. Empties the store."""
        rows = self._rows[True] or self._rows[False]
        self._rows, self._first_pass = {True: [], False: []}, False
        return None if not rows else rows[0] if len(rows) == 1 else torch.cat(rows)[:MAX_ROWS]


class TapHook:
    """A forward hook that captures the tensor at a tap."""

    def __init__(self, tap: Tap, sink: Sink, guard: Guarding, always: bool = False) -> None:
        self.tap, self.sink, self.always = tap, sink, always
        self._guard = guard

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
        if recorded_elsewhere() or not (self.always or torch.is_grad_enabled()):
            return
        with self._guard("reading activations"), unseen():
            tensor = self.tap.read(args, kwargs, output)
            if tensor is not None and is_plain(tensor) and self.sink.wants(module.training):
                self.sink.add(self.tap.units(tensor.detach()), module.training)


class Capture:
    """The taps of one network.

    Only forward passes with gradients enabled count: evaluation and acting under `no_grad` do not belong to the
    training step. See `Sink` for further rules.

    Args:
        guard: catches and reports errors inside the user's pass.

    Attributes:
        installed: layers with a hook.
        seconds: time spent on our own passes since the last `take`.
    """

    def __init__(self, network: Network, taps: Mapping[str, Tap], guard: Guarding) -> None:
        self._network, self.taps, self._guard = network, dict(taps), guard
        self._sinks: dict[str, Sink] = {}
        self._handles: list[Any] = []
        self.installed: frozenset[str] = frozenset()
        self.seconds = 0.0

    def install(self, layers: Iterable[str]) -> None:
        """Install hooks on the taps of exactly these layers. If they change, captured rows are dropped."""
        wanted = frozenset(layer for layer in layers if layer in self.taps)
        if wanted == self.installed:
            return
        self.remove()
        self._sinks = {layer: Sink() for layer in wanted}
        self._handles = self._place(wanted)
        self.installed = wanted

    def _place(self, layers: Iterable[str], always: bool = False) -> list[Any]:
        modules, handles = dict(named_modules_in(self._network.model)), []
        for layer in layers:
            tap = self.taps[layer]
            if (module := modules.get(tap.module)) is None:
                continue
            hook = TapHook(tap, self._sinks[layer], self._guard, always)
            handles.append(MODULE_HOOKS.place(module, tap.side, hook))
        return handles

    def remove(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._sinks, self.installed = [], {}, frozenset()

    def adopt(self, heard: Mapping[str, tuple[Tensor, bool]]) -> None:
        """Add readings of this step from elsewhere: layer -> (tensor at the tap, in training mode).

        Only for layers with an installed hook.
        """
        for layer, (tensor, training) in heard.items():
            if (sink := self._sinks.get(layer)) is not None and sink.wants(training):
                sink.add(self.taps[layer].units(tensor), training)

    def take(self) -> dict[str, Tensor]:
        """Layer -> unit outputs [N, H] of this step's forward passes, concatenated, for layers that ran."""
        self.seconds = 0.0
        taken = {layer: sink.take() for layer, sink in self._sinks.items()}
        return {layer: rows for layer, rows in taken.items() if rows is not None}


class CompiledCapture(Capture):
    """The taps of a compiled network, read in an eager pass before each training call.

    Costs one forward pass on steps whose activations are needed.

    Args:
        entrance: the module through which the network is called.
    """

    def __init__(self, network: Network, taps: Mapping[str, Tap], guard: Guarding, entrance: nn.Module) -> None:
        super().__init__(network, taps, guard)
        self._entrance = entrance

    def _place(self, layers: Iterable[str], always: bool = False) -> list[Any]:
        return [on_call(self._entrance, self.read)] if layers else []

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run an eager pass with these arguments, with hooks for this pass only."""
        began = CLOCK.now()
        handles = super()._place(self.installed, always=True)
        try:
            with self._guard("reading activations of a compiled network"):
                eager_pass(self._network.model, args, kwargs)
        finally:
            for handle in handles:
                handle.remove()
        self.seconds += CLOCK.now() - began
