"""Where a compiled network is called from outside its graphs, and the eager pass that is read there instead.

Under torch.compile a hook on a layer never fires, or is burned into the graph, or breaks it. So the activations of a
step are read from a second pass: right before the compiled call, the same arguments run eagerly through the same
modules, in the same mode, under the same autocast and with the same random numbers, without gradients. Buffers are
copies and every random stream is put back, so the run itself does not notice; the graph is neither broken nor compiled
anew.
"""

from __future__ import annotations

import contextlib
import gc
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from homeostat.shell.discovery import unwrap

Call = Callable[[tuple[Any, ...], dict[str, Any]], None]


def spent(*args: object, **kwargs: object) -> None:
    """What a hook becomes in a copied or pickled model: nothing."""


def spent_factory() -> Any:
    """Unpickles a hook as the function that does nothing."""
    return spent


class CallHook:
    """A forward pre-hook that hands on the arguments of training calls of one very module."""

    def __init__(self, module: nn.Module, then: Call) -> None:
        self.module, self.then = module, then

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module is self.module and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self.then(args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return spent

    def __reduce__(self) -> Any:
        return spent_factory, ()


class Interception:
    """Stands before the compiled call that `module.compile()` made, until it is removed.

    torch drops that attribute itself when the module is copied or pickled.
    """

    def __init__(self, module: nn.Module, then: Call) -> None:
        self._module, self._then, self._compiled = module, then, module._compiled_call_impl
        self._inside = False
        module._compiled_call_impl = self  # type: ignore[assignment]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._inside and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._inside = True  # the eager pass calls the module too
            try:
                self._then(args, kwargs)
            finally:
                self._inside = False
        return self._compiled(*args, **kwargs)  # type: ignore[misc]

    def remove(self) -> None:
        """Put the compiled call back."""
        if self._module._compiled_call_impl is self:
            self._module._compiled_call_impl = self._compiled


class Entrance:
    """The module through which a compiled network is called.

    Args:
        module: `torch.compile`'s wrapper, the network itself after `network.compile()`, or a network with compiled
            parts.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def open(self, then: Call) -> Any:
        """Call `then(args, kwargs)` right before every training call. Returns a handle with `remove()`."""
        if self.module._compiled_call_impl is not None:
            return Interception(self.module, then)
        return self.module.register_forward_pre_hook(CallHook(self.module, then), with_kwargs=True)


def find_entrance(model: nn.Module, compiled: bool = False) -> Entrance | None:
    """The entrance of a network, if torch.compile runs it or parts of it; None when it runs eagerly.

    Args:
        model: the network, outside of any wrapper.
        compiled: it is, or seems to be: look even if nothing seems to have been compiled in this process.
    """
    if "torch._dynamo.eval_frame" not in sys.modules or not (compiled or _something_compiled()):
        return None
    if model._compiled_call_impl is not None:
        return Entrance(model)
    kind = sys.modules["torch._dynamo.eval_frame"].OptimizedModule
    wrappers = [thing for thing in gc.get_objects() if type(thing) is kind]
    outer = [w for w in wrappers if unwrap(w)[0] is model]
    if outer:
        return Entrance(max(outer, key=lambda w: sum(1 for _ in w.modules())))
    parts = any(type(m) is kind or m._compiled_call_impl is not None for m in model.modules())
    return Entrance(model) if parts else None


def _something_compiled() -> bool:
    """Whether torch.compile was used in this process at all: looking for its wrappers takes a while."""
    backends = getattr(sys.modules["torch._dynamo.eval_frame"], "cached_backends", None)
    return backends is None or any(backend is not None for backend in backends.values())


def eager_pass(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run the network on these arguments without compiling, gradients or side effects on tensors and random streams.

    Parameters are passed detached, so that autocast does not keep their casts for the pass that follows. What a forward
    changes outside of its registered buffers (a Python counter) is changed once more.
    """
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    values |= {name: buffer.clone() for name, buffer in model.named_buffers()}
    with _eagerly(), streams_kept(), torch.no_grad():
        torch.func.functional_call(model, values, args, kwargs)


@contextlib.contextmanager
def _eagerly() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused encoder layer would bypass its own submodules
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def streams_kept() -> Iterator[None]:
    """Every global random stream (torch's, Python's, numpy's) is afterwards where it was."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's own stream
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
