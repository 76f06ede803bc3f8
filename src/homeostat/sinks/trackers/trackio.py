"""trackio: a run of its own, in a context of its own, so that the current run of the script stays what it is."""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import io
from collections.abc import Callable, Sequence
from typing import Any

from homeostat.sinks.sink import ALERT_LEVELS, Alert, Value, rows_by_step, within

LIBRARY = PACKAGE = "trackio"
PROJECT = "homeostat"
SECONDS = 10.0
"""Longest wait for the end of a run."""


class TrackioSink:
    """Writes one row for each step. What trackio prints on stdout is left out.

    Args:
        project: name of the project; give that of the script to see both runs side by side.
    """

    name = "trackio"

    def __init__(self, project: str) -> None:
        self._project = project
        self._context = contextvars.Context()
        self._run: Any = None

    def open(self, run: str, script: str) -> None:
        self._trackio: Any = importlib.import_module(LIBRARY)
        config = vars(self._trackio).get("config")
        hardware = {"auto_log_gpu": False, "auto_log_cpu": False}
        settings = {"name": run, "config": {"script": script}, "embed": False, **hardware}
        self._run = self._silently(lambda: self._trackio.init(self._project, **settings))
        self._trackio.config = config  # `init` sets it to that of the new run

    def write(self, values: Sequence[Value], alerts: Sequence[Alert]) -> None:
        for step, row in rows_by_step(values):
            self._silently(lambda row=row, step=step: self._run.log(row, step=step))
        for alert in alerts:
            level = self._trackio.AlertLevel[ALERT_LEVELS[alert.severity]]
            text = f"step {alert.step}: {alert.text}"
            self._silently(lambda a=alert, t=text, n=level: self._run.alert(title=a.title, text=t, level=n))

    def close(self, status: str) -> None:
        within(SECONDS, lambda: self._silently(self._run.finish), "the end of the run of trackio")

    def _silently(self, call: Callable[[], Any]) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return self._context.run(call)


def make(where: str) -> TrackioSink:
    """From the name of the project; "" is `homeostat`."""
    return TrackioSink(where or PROJECT)
