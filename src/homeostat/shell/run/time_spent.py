"""The wall time that Homeostat uses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from homeostat.shell.hooks.backward_hooks import BACKWARD_HOOKS
from homeostat.shell.hooks.clock import CLOCK
from homeostat.shell.hooks.step_hooks import STEP_HOOKS
from homeostat.shell.observe.cadence import Credit


class TimeSpent:
    """Wall time of a run, and the part of it that Homeostat used.

    Attributes:
        seconds: spent in steps, on measuring and treating.
        setup: processor seconds spent once: imports, finding networks.
        hooks: estimated seconds spent on hooks in steps in which nothing was due.
    """

    def __init__(self) -> None:
        self.seconds = self.setup = self.hooks = 0.0
        self._ticks = self._backwards = 0
        self._started = CLOCK.now()

    def restart(self, seconds: float = 0.0, wall_seconds: float = 0.0) -> None:
        """Start the clock, or continue after a given time."""
        self.seconds, self._started = seconds, CLOCK.now() - wall_seconds
        self._ticks, self._backwards = STEP_HOOKS.ticks, BACKWARD_HOOKS.backwards

    @property
    def used(self) -> float:
        """Seconds of all steps, including the estimate for hooks."""
        return self.seconds + self.hooks

    @property
    def wall_seconds(self) -> float:
        """Wall time since the run started."""
        return CLOCK.now() - self._started

    def share(self, aside: float) -> float:
        """Share of wall time that was spent, with the setup and these seconds."""
        wall = self.wall_seconds
        return (self.used + self.setup + aside) / wall if wall > 0 else 0.0

    def count_hooks(self) -> None:
        """Add the hooks since the last call, at their present cost, and have them timed again."""
        ticks, backwards = STEP_HOOKS.ticks - self._ticks, BACKWARD_HOOKS.backwards - self._backwards
        self._ticks, self._backwards = STEP_HOOKS.ticks, BACKWARD_HOOKS.backwards
        self.hooks += ticks * STEP_HOOKS.seconds + backwards * BACKWARD_HOOKS.seconds
        for hooks in (STEP_HOOKS, BACKWARD_HOOKS):
            hooks.time_next()

    @contextlib.contextmanager
    def timed(self, credit: Credit | None = None) -> Iterator[None]:
        """Count what is done inside, and pay for it from a credit, as long as it lasts."""
        began, thread = CLOCK.now(), time.thread_time()
        try:
            yield
        finally:
            seconds = CLOCK.now() - began
            self.seconds += seconds
            if credit is not None and credit.lasts:
                credit.pay(seconds, (time.thread_time() - thread) / max(seconds, 1e-9))
