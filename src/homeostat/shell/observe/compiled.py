"""Read activations of compiled networks by re-running them eagerly.

Under torch.compile a hook on a layer never fires, or is traced into the graph, or breaks it. So the activations of a
step are read in a second pass: right before the compiled call, the same arguments run eagerly through the same modules,
in the same mode, with the same autocast and random numbers, without gradients. Buffers are copies and random streams
are restored, so the run is not changed; the graph is neither broken nor recompiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from homeostat.shell.hooks.module_hooks import MODULE_HOOKS
from homeostat.shell.hooks.module_tree import modules_in, named_buffers_in, named_parameters_in
from homeostat.shell.hooks.random_streams import generators_kept, generators_of, streams_kept
from homeostat.shell.hooks.torch_internals import (
    anything_compiled,
    compiled_call,
    compiled_wrapper,
    dynamo_loaded,
    set_compiled_call,
)
from homeostat.shell.hooks.wrappers import wrappers_of
from homeostat.shell.unit_graph.sandbox import eagerly, silenced

Call = Callable[[tuple[Any, ...], dict[str, Any]], None]


class Interception:
    """Intercepts the compiled call that `module.compile()` set, until it is removed.

    torch drops that attribute when the module is copied or pickled.
    """

    def __init__(self, module: nn.Module, then: Call) -> None:
        self._module, self._then, self._compiled = module, then, compiled_call(module)
        self._inside = False
        set_compiled_call(module, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._inside and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._inside = True  # the eager pass calls the module too
            try:
                self._then(args, kwargs)
            finally:
                self._inside = False
        return self._compiled(*args, **kwargs)  # type: ignore[misc]

    def remove(self) -> None:
        """Restore the compiled call."""
        if compiled_call(self._module) is self:
            set_compiled_call(self._module, self._compiled)


def on_call(module: nn.Module, then: Call) -> Any:
    """Call `then(args, kwargs)` right before every training call of a module. Returns a handle with `remove()`."""
    if compiled_call(module) is not None:
        return Interception(module, then)

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            then(args, kwargs)

    return MODULE_HOOKS.place(module, "input", hook)


def find_entrance(model: nn.Module, compiled: bool = False) -> nn.Module | None:
    """The module through which a network is called, if torch.compile runs it or parts of it; None if it runs eagerly.

    It is `torch.compile`'s wrapper, the network itself after `network.compile()`, or a network with compiled parts.

    Args:
        model: the network without wrappers.
        compiled: search even if nothing seems to have been compiled in this process.
    """
    if not (dynamo_loaded() and (compiled or anything_compiled())):
        return None
    if compiled_call(model) is not None:
        return model
    kind = compiled_wrapper()
    if outer := wrappers_of(model, kind):
        return max(outer, key=lambda w: sum(1 for _ in modules_in(w)))
    parts = any(isinstance(m, kind) or compiled_call(m) is not None for m in modules_in(model))
    return model if parts else None


def eager_pass(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], gradients: bool = False) -> None:
    """Run the network on these arguments without compiling or side effects on tensors and random streams.

    Parameters are passed detached, and autocast caches no casts for the following pass. State outside of registered
    buffers (a Python counter) is changed once more; printed text is dropped.

    Args:
        gradients: build the autograd graph of this pass, to follow values through it.
    """
    values = {name: p.detach().requires_grad_(gradients and p.requires_grad) for name, p in named_parameters_in(model)}
    values |= {name: buffer.clone() for name, buffer in named_buffers_in(model)}
    caching = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with (
            eagerly(),
            streams_kept(),
            generators_kept(generators_of(model)),
            silenced(),
            torch.set_grad_enabled(gradients),
        ):
            torch.func.functional_call(model, values, args, kwargs)
    finally:
        torch.set_autocast_cache_enabled(caching)
