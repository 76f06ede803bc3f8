"""The clock that the budget goes by."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Seconds of this process.

    Attributes:
        now: returns the seconds since some fixed time. By default wall time (`time.perf_counter`).
    """

    def __init__(self) -> None:
        self.now: Callable[[], float] = time.perf_counter


CLOCK = Clock()
"""The clock of this process."""
