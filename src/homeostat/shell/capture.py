"""Reading the outputs of units from the user's own forward passes, with hooks that are there only while needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from homeostat.shell.graph import Tap
from homeostat.shell.network import Network

MAX_ROWS = 4096
"""Samples kept per layer and step; more add nothing to a vital and cost memory."""


def spent(*args: object, **kwargs: object) -> None:
    """What a tap becomes in a copied or pickled model: nothing."""


class TapHook:
    """A forward hook on one module, bound to that very module: a deep copy or a pickle of it captures nothing."""

    def __init__(self, module: nn.Module, tap: Tap, sink: list[Tensor]) -> None:
        self.module, self.tap, self.sink = module, tap, sink

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
        if module is not self.module or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        rows = self.tap.units(self.tap.read(args, kwargs, output).detach())
        if len(rows):
            self.sink.append(rows[:MAX_ROWS].clone())  # a copy: in-place operations may follow

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return spent

    def __reduce__(self) -> Any:
        return spent_factory, ()


def spent_factory() -> Any:
    """Unpickles a tap as the function that does nothing."""
    return spent


class Capture:
    """The taps of one network.

    Only forward passes with gradients enabled count: evaluation and acting under `no_grad` are not the training step.
    """

    def __init__(self, network: Network, taps: Mapping[str, Tap]) -> None:
        self._network, self.taps = network, dict(taps)
        self._sinks: dict[str, list[Tensor]] = {}
        self._handles: list[Any] = []
        self.installed: frozenset[str] = frozenset()

    def install(self, layers: Iterable[str]) -> None:
        """Put hooks on exactly these layers' taps; what was captured and not taken is dropped when they change."""
        wanted = frozenset(layer for layer in layers if layer in self.taps)
        if wanted == self.installed:
            return
        self.remove()
        modules = dict(self._network.model.named_modules())
        for layer in wanted:
            tap = self.taps[layer]
            if (module := modules.get(tap.module)) is None:
                continue
            sink = self._sinks.setdefault(layer, [])
            hook = TapHook(module, tap, sink)
            add = module.register_forward_hook if tap.side == "output" else module.register_forward_pre_hook
            self._handles.append(add(hook, with_kwargs=True))  # type: ignore[arg-type]
        self.installed = wanted

    def remove(self) -> None:
        """Take every hook off."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._sinks, self.installed = [], {}, frozenset()

    def take(self) -> dict[str, Tensor]:
        """Layer -> unit outputs [N, H] of this step's forward passes, joined; layers not reached are absent."""
        captured = {k: (v[0] if len(v) == 1 else torch.cat(v)[:MAX_ROWS]) for k, v in self._sinks.items() if v}
        for sink in self._sinks.values():
            sink.clear()
        return captured
