"""Numbers that the script logs, as series of the run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from homeostat.diagnosis.history import LOGGED
from homeostat.shell.hooks.logger_hooks import LOGGER_HOOKS
from homeostat.shell.observe.observer import Row


class LoggedMetrics:
    """Collects logged numbers with the optimizer step at which they were logged.

    Args:
        wanted: whether to collect at all.
        steps: returns the number of completed optimizer steps.
        failed: called with the name of this part and an internal error.
    """

    def __init__(self, wanted: bool, steps: Callable[[], int], failed: Callable[[str, Exception], None]) -> None:
        self._wanted, self._steps, self._failed = wanted, steps, partial(failed, "logged metrics")
        self._rows: deque[Row] = deque()  # another thread may log

    def start(self) -> None:
        if self._wanted:
            LOGGER_HOOKS.on_error.append(self._failed)
            LOGGER_HOOKS.subscribe(self._heard)

    def stop(self) -> list[Row]:
        """Stop, and return what was logged since the last call of `rows`."""
        LOGGER_HOOKS.unsubscribe(self._heard)
        if self._failed in LOGGER_HOOKS.on_error:  # a run may end before it has started
            LOGGER_HOOKS.on_error.remove(self._failed)
        return self.rows()

    def _heard(self, name: str, value: float) -> None:
        self._rows.append((self._steps(), LOGGED + name, "network", value))

    def rows(self) -> list[Row]:
        """What was logged since the last call. Also looks for loggers that were imported since."""
        LOGGER_HOOKS.look()
        return [self._rows.popleft() for _ in range(len(self._rows))]
