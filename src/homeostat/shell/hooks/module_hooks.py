"""Homeostat's forward hooks on the script's modules. They are called in forward passes and are otherwise invisible.

Copies, pickles and scripted modules do not have these hooks, and torch's functions that read the hooks of a module see
only those of the script.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from homeostat.shell.hooks.module_tree import parameters_in
from homeostat.shell.hooks.torch_internals import (
    compile_callbacks,
    hook_functions,
    hook_tables_in,
    keyword_hooks,
    skip_compiling,
    without_modes,
)

Side = Literal["input", "output"]
Hook = Callable[..., None]


class Handle:
    """Removes a hook."""

    def __init__(self, hooks: ModuleHooks, key: int) -> None:
        self._hooks, self._key = hooks, key

    def remove(self) -> None:
        """Remove the hook; a second call does nothing."""
        self._hooks.take_off(self._key)


class _Bound:
    """A hook of one module, which it does not keep alive. Shallow copies and replicas share the module's tables."""

    def __init__(self, module: nn.Module, side: Side, hook: Hook) -> None:
        self._module, self._given, self._hook = weakref.ref(module), 2 if side == "input" else 3, hook

    def __call__(self, module: nn.Module, *called: Any) -> None:
        # torch still calls a hook that another one of this call has removed, but without the keyword arguments
        if module is self._module() and len(called) == self._given:
            with without_modes():
                self._hook(module, *called)


class ModuleHooks:
    """All hooks of this process. Only the module keeps its hooks alive.

    Keys are negative, so torch numbers the hooks of the script as without Homeostat.
    """

    def __init__(self) -> None:
        self._placed: dict[int, tuple[weakref.ref[nn.Module], Side]] = {}
        self._kept: dict[int, _Bound] = {}
        self._keys = itertools.count(-1, -1)
        self._lock = threading.RLock()
        self._hidden = 0
        self._undo: list[Callable[[], None]] = []

    def place(self, module: nn.Module, side: Side, hook: Hook) -> Handle:
        """Call `hook(module, args, kwargs)` before, or `hook(module, args, kwargs, output)` after, each forward."""
        with self._lock:
            if not self._placed:
                self._wrap()
            key = next(self._keys)
            self._placed[key] = weakref.ref(module), side
            self._kept[key] = _Bound(module, side, hook)
            if not self._hidden:
                self._insert(key)
        return Handle(self, key)

    def take_off(self, key: int) -> None:
        """Remove one hook."""
        with self._lock:
            self._keep(key)
            self._kept.pop(key, None)
            if self._placed.pop(key, None) is not None and not self._placed:
                self._unwrap()

    def __len__(self) -> int:
        return len(self._placed)

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Context manager in which no hook is installed."""
        self.hide()
        try:
            yield
        finally:
            self.show()

    def hide(self, *_: Any) -> None:
        """Remove all hooks until `show` has been called as many times."""
        with self._lock:
            self._hidden += 1
            if self._hidden == 1:
                for key in self._placed:
                    self._keep(key)

    def show(self, *_: Any) -> None:
        """Undo one `hide`."""
        with self._lock:
            self._hidden = max(self._hidden - 1, 0)
            if not self._hidden:
                for key in list(self._kept):
                    self._insert(key)

    def _insert(self, key: int) -> None:
        module, side = self._placed[key]
        hook, live = self._kept.pop(key), module()
        if live is not None:
            hooks, with_kwargs = keyword_hooks(live, side)
            hooks[key], with_kwargs[key] = hook, True

    def _keep(self, key: int) -> None:
        module, side = self._placed.get(key, (None, None))
        if module is None or side is None or (live := module()) is None:
            return
        hooks, with_kwargs = keyword_hooks(live, side)
        with_kwargs.pop(key, None)
        if (hook := hooks.pop(key, None)) is not None:
            self._kept[key] = hook

    # ---- hiding from torch and from copies

    def _wrap(self) -> None:
        self._undo.append(_replace(nn.Module, "__reduce_ex__", _reduced(nn.Module.__reduce_ex__)))
        for owner, name in hook_functions():
            self._undo.append(_replace(owner, name, self._blind(getattr(owner, name))))
        layer = nn.TransformerEncoderLayer  # computes differently in evaluations if a module inside has hooks
        self._undo.append(_replace(layer, "forward", self._blind_in_evaluation(layer.forward)))
        self._undo.append(compile_callbacks(self.hide, self.show))

    def _unwrap(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _blind(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def blind(*args: Any, **kwargs: Any) -> Any:
            with self.hidden():
                return function(*args, **kwargs)

        return blind

    def _blind_in_evaluation(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def evaluated(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if module.training or _needs_gradients(module, (*args, *kwargs.values())):
                return forward(module, *args, **kwargs)
            with self.hidden():
                return forward(module, *args, **kwargs)

        skip_compiling(evaluated)
        return evaluated


MODULE_HOOKS = ModuleHooks()
"""The instance of this process."""


def _replace(owner: Any, name: str, value: Any) -> Callable[[], None]:
    """Set an attribute. Returns a function that restores it."""
    own = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, value)

    def undo() -> None:
        if getattr(owner, name, None) is value:
            setattr(owner, name, before) if own else delattr(owner, name)

    return undo


def _needs_gradients(module: nn.Module, args: tuple[Any, ...]) -> bool:
    tensors = itertools.chain(parameters_in(module), (value for value in args if isinstance(value, Tensor)))
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _reduced(reduce: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(reduce)
    def reduced(module: nn.Module, protocol: Any) -> Any:
        made = reduce(module, protocol)
        caller = inspect.currentframe()
        caller = caller and caller.f_back
        # a shallow copy shares the tables of the original; the hooks ignore it
        shallow = caller is not None and caller.f_code is copy.copy.__code__
        if isinstance(made, tuple) and len(made) > 2 and not shallow:
            return (*made[:2], _without_ours(made[2]), *made[3:])
        return made

    return reduced


def _without_ours(state: Any) -> Any:
    """The state of a module; a copy without our hooks if it has any."""
    if isinstance(state, tuple) and state:  # a class with slots
        return (_without_ours(state[0]), *state[1:])
    if not isinstance(state, dict):
        return state
    ours = {name: table for name, table in hook_tables_in(state).items() if any(key < 0 for key in table)}
    if not ours:
        return state
    cleared = {name: OrderedDict((k, v) for k, v in table.items() if k >= 0) for name, table in ours.items()}
    return {name: cleared.get(name, value) for name, value in state.items()}
