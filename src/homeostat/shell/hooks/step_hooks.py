"""Listen to optimizer steps through torch's global hooks, once per step even if `step` is nested or fails.

One instance serves the whole process. Without listeners no hook is installed.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import torch
from torch.optim import Optimizer

from homeostat.shell.hooks.clock import CLOCK
from homeostat.shell.hooks.torch_internals import modes_active, step_hook_tables, steps_on_stack, without_modes

_KEY = -1
RECENT = 9
"""Times of hooks from which their cost is estimated."""
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
        seconds: estimated time of both hooks in a step in which nothing is due, 0 before the first estimate.
    """

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()
        self._depth: dict[int, int] = {}
        self.ticks = 0
        self.compiled = False
        self._lapses: deque[float] = deque(maxlen=RECENT)
        self._before_took = 0.0

    @property
    def seconds(self) -> float:
        return min(self._lapses, default=0.0)

    def time_next(self) -> None:
        """Time the hooks in the next step. Of the recent times the shortest is the estimate."""
        self._place(self._timed_before, self._timed_after)

    def _place(self, before: Any, after: Any) -> None:
        if self._listeners:
            for table, hook in zip(step_hook_tables(), (before, after), strict=True):
                table[_KEY] = hook

    def _timed_before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        began = CLOCK.now()
        changed = self._before(optimizer, args, kwargs)
        self._before_took = CLOCK.now() - began
        return changed

    def _timed_after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._place(self._before, self._after)
        began = CLOCK.now()
        self._after(optimizer, args, kwargs)
        self._lapses.append(CLOCK.now() - began + self._before_took)

    def subscribe(self, listener: Listener) -> None:
        """Add a listener; the first one installs the global hooks."""
        if not self._listeners:
            self.compiled = False
        self._listeners = (*self._listeners, listener)
        if len(self._listeners) == 1:
            # not by torch's function, which would change the numbers of the script's own hooks, visible in pickles
            self._place(self._before, self._after)

    def unsubscribe(self, listener: Listener) -> None:
        """Remove a listener; the last one removes the global hooks."""
        self._listeners = tuple(one for one in self._listeners if one is not listener)
        if not self._listeners:
            for table in step_hook_tables():
                table.pop(_KEY, None)
            self._depth.clear()

    @property
    def stepping(self) -> bool:
        """Whether an optimizer is at its step, which may call a closure."""
        return bool(self._depth)

    @property
    def installed(self) -> int:
        """Number of hooks installed in torch."""
        return sum(_KEY in table for table in step_hook_tables())

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        if torch.compiler.is_compiling():  # any operation here would become part of the compiled step
            self.compiled = True
            return None
        key = id(optimizer)
        if key in self._depth:
            depth = steps_on_stack(optimizer) - 1
            self._depth[key] = depth + 1
            if depth:
                return None
        else:
            self._depth[key] = 1
        if not modes_active():  # enters no context if none is needed, because this runs in every step
            return self._tell_before(optimizer, args, kwargs)
        with without_modes():
            return self._tell_before(optimizer, args, kwargs)

    def _tell_before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        changed: Arguments | None = None
        for listener in self._listeners:
            if (result := listener.before_step(optimizer, args, kwargs)) is not None:
                changed = args, kwargs = result
        return changed

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        depth = self._depth.pop(id(optimizer), 0) - 1
        if depth > 0:
            self._depth[id(optimizer)] = depth
            return
        if depth < 0:
            return  # subscribed during this step, so the pre hook never ran
        self.ticks += 1
        if not modes_active():
            self._tell_after(optimizer)
        else:
            with without_modes():
                self._tell_after(optimizer)

    def _tell_after(self, optimizer: Optimizer) -> None:
        for listener in self._listeners:
            listener.after_step(optimizer)


STEP_HOOKS = StepHooks()
"""The instance of this process."""
