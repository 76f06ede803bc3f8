"""Weights & Biases: the run of the script if it has one, else a run of its own."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from homeostat.sinks.sink import ALERT_LEVELS, Alert, Value, rows_by_step, series_name, within

LIBRARY = PACKAGE = "wandb"
PROJECT = "homeostat"
STEP = "homeostat/step"
SECONDS = 10.0
"""Longest wait for the end of a run."""


class WandbSink:
    """Writes to `wandb.run`, without a step of wandb's own: its rows are those that the script commits.

    A row of the script gets the latest value of every series; `homeostat/step` is their x-axis. Without a run of the
    script, a run of its own gets all values; `wandb.run` then stays None.

    Args:
        project: for a run of its own.
    """

    name = "wandb"

    def __init__(self, project: str) -> None:
        self._project, self._title, self._script = project, "", ""
        self._theirs: Any = None
        self._own: Any = None

    def open(self, run: str, script: str) -> None:
        self._wandb: Any = importlib.import_module(LIBRARY)
        self._title, self._script = run, script

    def write(self, values: Sequence[Value], alerts: Sequence[Alert]) -> None:
        run = self._target()
        if run is None:
            return
        if run is self._own:
            for step, row in rows_by_step(values):
                run.log({**row, STEP: step})
        elif values:
            latest = {series_name(vital, layer): value for _, vital, layer, value in values}
            run.log({**latest, STEP: max(step for step, *_ in values)}, commit=False)
        for alert in alerts:
            level = self._wandb.AlertLevel[ALERT_LEVELS[alert.severity]]
            run.alert(title=f"homeostat: {alert.title}", text=f"step {alert.step}: {alert.text}", level=level)

    def _target(self) -> Any:
        """The run to write to, None after the run of the script."""
        current = self._wandb.run
        if current is not None:
            if current is not self._theirs:
                self._theirs = current
                self._set_axis(current)
            return current
        if self._theirs is None and self._own is None:
            settings = self._wandb.Settings(console="off", silent=True, x_disable_stats=True, save_code=False)
            self._own = self._wandb.init(
                project=self._project,
                name=self._title,
                config={"script": self._script},
                reinit="create_new",  # leaves wandb.run to the script
                settings=settings,
            )
            self._set_axis(self._own)
        return None if self._theirs is not None else self._own

    def _set_axis(self, run: Any) -> None:
        run.define_metric(STEP, hidden=True)
        run.define_metric("homeostat/*", step_metric=STEP)

    def close(self, status: str) -> None:
        if self._own is not None:
            code = 0 if status == "finished" else 1
            within(SECONDS, lambda: self._own.finish(exit_code=code), "the end of the run of wandb")


def make(where: str) -> WandbSink:
    """From the name of the project; "" is `homeostat`."""
    return WandbSink(where or PROJECT)
