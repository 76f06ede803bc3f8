"""The wall time that Homeostat uses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from homeostat.shell.observe.cadence import Credit


class TimeSpent:
    """Wall time of a run, and the part of it that Homeostat used.

    Attributes:
        seconds: spent in steps, on measuring and treating.
        setup: seconds spent once: finding networks.
    """

    def __init__(self) -> None:
        self.seconds = self.setup = 0.0
        self._started = time.perf_counter()

    def restart(self, seconds: float = 0.0, wall_seconds: float = 0.0) -> None:
        """Start the clock, or continue after a given time."""
        self.seconds, self._started = seconds, time.perf_counter() - wall_seconds

    @property
    def wall_seconds(self) -> float:
        """Wall time since the run started."""
        return time.perf_counter() - self._started

    @contextlib.contextmanager
    def timed(self, credit: Credit | None = None) -> Iterator[None]:
        """Count what is done inside, and pay for it from a credit, as long as it lasts."""
        began, thread = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            self.seconds += seconds
            if credit is not None and credit.lasts:
                credit.pay(seconds, (time.thread_time() - thread) / max(seconds, 1e-9))
