"""MLflow: the active run of the script if it has one, else a run of its own."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from typing import Any

from homeostat.sinks.sink import PREFIX, Alert, Value, series_name, within

LIBRARY = "mlflow"
PACKAGE = "mlflow-skinny"
EXPERIMENT = "homeostat"
SECONDS = 10.0
"""Longest wait for a server when the run begins or ends."""
MOST = 500
"""Values a call; MLflow takes up to 1,000."""


class MlflowSink:
    """Writes metrics in MLflow's own background thread, and alerts as tags.

    Args:
        server: tracking URI for a run of its own; "" is MLflow's own setting (`MLFLOW_TRACKING_URI`).
    """

    name = "mlflow"

    def __init__(self, server: str) -> None:
        self._server, self._title, self._script = server, "", ""
        self._client: Any = None
        self._theirs = self._own = ""
        self._sent: Any = None

    def open(self, run: str, script: str) -> None:
        self._mlflow: Any = importlib.import_module(LIBRARY)
        self._entities: Any = importlib.import_module("mlflow.entities")
        self._title, self._script = run, script

    def write(self, values: Sequence[Value], alerts: Sequence[Alert]) -> None:
        run = self._target()
        if not run:
            return
        now = int(1000 * time.time())
        metrics = [
            self._entities.Metric(series_name(vital, layer), value, now, step) for step, vital, layer, value in values
        ]
        tags = [
            self._entities.RunTag(f"{PREFIX}{a.title.partition(':')[0]}", f"step {a.step}, {a.severity}: {a.text}")
            for a in alerts
        ]
        for at in range(0, max(len(metrics), bool(tags)), MOST):
            some = metrics[at : at + MOST]
            self._sent = self._client.log_batch(run, metrics=some, tags=() if at else tags, synchronous=False)

    def _target(self) -> str:
        """Id of the run to write to, "" after the run of the script."""
        active = self._mlflow.active_run()
        if active is not None:
            if active.info.run_id != self._theirs:
                self._theirs = active.info.run_id
                self._client = self._mlflow.MlflowClient()
            return self._theirs
        if not self._theirs and not self._own:
            within(SECONDS, self._create, "the start of a run of MLflow")
        return "" if self._theirs else self._own

    def _create(self) -> None:
        self._client = self._mlflow.MlflowClient(tracking_uri=self._server or None)
        known = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known is not None else self._client.create_experiment(EXPERIMENT)
        tags = {"mlflow.source.name": self._script}
        self._own = self._client.create_run(experiment, run_name=self._title, tags=tags).info.run_id

    def close(self, status: str) -> None:
        within(SECONDS, lambda: self._finish(status), "the end of the run of MLflow")

    def _finish(self, status: str) -> None:
        if self._sent is not None:
            self._sent.wait()
        if self._own:
            ends = {"finished": "FINISHED", "interrupted": "KILLED"}
            self._client.set_terminated(self._own, status=ends.get(status, "FAILED"))


def make(where: str) -> MlflowSink:
    """From the tracking URI; "" is MLflow's own setting."""
    return MlflowSink(where)
