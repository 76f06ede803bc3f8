"""Listen to optimizer steps through torch's global hooks, once per step even if `step` is nested or fails.

One instance serves the whole process. Without listeners no hook is installed.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.optim import Optimizer

from homeostat.shell.hooks.torch_internals import step_hook_tables, steps_on_stack, without_modes

_KEY = -1
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Listener(Protocol):
    """An object that is called around optimizer steps."""

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Called before the outermost `step` of an optimizer; may return changed arguments (a wrapped closure)."""

    def after_step(self, optimizer: Optimizer) -> None:
        """Called after the outermost `step` returned."""


class StepHooks:
    """Dispatches optimizer steps to listeners.

    If a subclass's `step` calls `super().step()`, torch fires its hooks twice; only the outermost call counts. A step
    that raises never fires its post hook; the Python stack gives the true depth at the next step.

    Attributes:
        ticks: number of optimizer steps so far.
        compiled: whether a step was compiled, in which no hook is called, since the first current listener was added.
    """

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._depth: dict[int, int] = {}
        self.ticks = 0
        self.compiled = False

    def subscribe(self, listener: Listener) -> None:
        """Add a listener; the first one installs the global hooks."""
        if not self._listeners:
            self.compiled = False
            # not by torch's function, which would change the numbers of the script's own hooks, visible in pickles
            for table, hook in zip(step_hook_tables(), (self._before, self._after), strict=True):
                table[_KEY] = hook
        self._listeners.append(listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Remove a listener; the last one removes the global hooks."""
        if listener in self._listeners:
            self._listeners.remove(listener)
        if not self._listeners:
            for table in step_hook_tables():
                table.pop(_KEY, None)
            self._depth.clear()

    @property
    def installed(self) -> int:
        """Number of hooks installed in torch."""
        return sum(_KEY in table for table in step_hook_tables())

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        if torch.compiler.is_compiling():  # any operation here would become part of the compiled step
            self.compiled = True
            return None
        key = id(optimizer)
        depth = self._depth.get(key, 0)
        if depth:
            depth = steps_on_stack(optimizer) - 1
        self._depth[key] = depth + 1
        if depth:
            return None
        changed: Arguments | None = None
        with without_modes():
            for listener in tuple(self._listeners):
                result = listener.before_step(optimizer, *(changed or (args, kwargs)))
                changed = result if result is not None else changed
        return changed

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        key = id(optimizer)
        depth = self._depth.get(key, 0) - 1
        if depth > 0:
            self._depth[key] = depth
            return
        self._depth.pop(key, None)
        if depth < 0:
            return  # subscribed during this step, so the pre hook never ran
        self.ticks += 1
        with without_modes():
            for listener in tuple(self._listeners):
                listener.after_step(optimizer)


STEP_HOOKS = StepHooks()
"""The instance of this process."""
