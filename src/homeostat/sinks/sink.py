"""What a sink is: it takes the values and alerts of a run, and writes them elsewhere."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from homeostat.core.errors import HomeostatError
from homeostat.core.finding import Severity

Value = tuple[int, str, str, float]
"""(optimizer step, vital, layer, value); the value may be infinite."""


@dataclass(frozen=True)
class Alert:
    """Something that a person should know: a finding, or what the closed loop has taken back.

    Args:
        step: completed optimizer steps.
        severity: "info", "warning" or "critical".
        title: a few words ("dormant-units: warning").
        text: one or two sentences.
    """

    step: int
    severity: Severity
    title: str
    text: str


@runtime_checkable
class RunSink(Protocol):
    """Takes what a run has measured, about once a second. All methods are called in the thread that trains.

    An error in a method is reported once; the sink is then left out, and training continues.
    """

    @property
    def name(self) -> str:
        """For messages and the record."""
        ...

    def open(self, run: str, script: str) -> None:
        """The run begins. `run` is its id, `script` the script as the user named it."""
        ...

    def write(self, values: Sequence[Value], alerts: Sequence[Alert]) -> None:
        """New values and alerts, in the order of their steps within a series."""
        ...

    def close(self, status: str) -> None:
        """The run has ended as "finished", "failed" or "interrupted". Called once, and only after `open`."""
        ...


def series_name(vital: str, layer: str) -> str:
    """The name of a series in a tracker.

    >>> series_name("dormant-units", "fc1")
    'homeostat/dormant-units/fc1'
    """
    return re.sub(r"[^\w\-./ :]", "_", f"{PREFIX}{vital}/{layer}")


def rows_by_step(values: Sequence[Value]) -> list[tuple[int, dict[str, float]]]:
    """Every step with its values by the name of their series, in the order of steps.

    >>> rows_by_step([(2, "loss", "network", 0.5), (1, "loss", "network", 0.7)])
    [(1, {'homeostat/loss/network': 0.7}), (2, {'homeostat/loss/network': 0.5})]
    """
    rows: dict[int, dict[str, float]] = {}
    for step, vital, layer, value in values:
        rows.setdefault(step, {})[series_name(vital, layer)] = value
    return sorted(rows.items())


ALERT_LEVELS: dict[Severity, str] = {"info": "INFO", "warning": "WARN", "critical": "ERROR"}
"""Severity -> the level of an alert, as trackers call it."""
PREFIX = "homeostat/"
"""Begins every name that Homeostat gives to a tracker."""


def within(seconds: float, call: Callable[[], object], what: str) -> None:
    """Call a function that may wait for a network, at most so long. It goes on in a thread if it takes longer.

    Raises:
        HomeostatError: it has not returned in time.
        Exception: what the function has raised.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name=f"homeostat {what}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise HomeostatError(f"{what} took longer than {seconds:g} seconds")
    if raised:
        raise raised[0]
