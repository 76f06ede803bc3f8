"""Hands what a run measures to its sinks, about once a second, outside of the steps in which nothing is due."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from homeostat.core.finding import SEVERITIES, Finding, JournalEntry
from homeostat.core.signals import pass_on
from homeostat.diagnosis.history import LOGGED, STEP_SERIES
from homeostat.record import RunRecord
from homeostat.record.finding_events import changes
from homeostat.record.json_values import number
from homeostat.shell.hooks.random_streams import streams_kept
from homeostat.shell.hooks.torch_internals import unseen
from homeostat.shell.observe.observer import Row
from homeostat.sinks import Alert, RunSink, Value

EVERY_SECONDS = 1.0
"""Shortest time between two writes."""
SHARE = 0.01
"""Share of wall time for writing; a slow sink gets its values in fewer, larger portions."""
LONGEST_SECONDS = 30.0
"""Longest time between two writes."""
MOST = 100_000
"""Largest number of values that wait; beyond it the oldest are left out."""
_TAKEN_BACK = {"revert", "give up"}


class SinkRunner:
    """The sinks of a run. A sink that fails is reported once and left out.

    Args:
        sinks: where to write to.
        record: of the run.
        failed: called with the name of a part and its error.
    """

    def __init__(self, sinks: Sequence[RunSink], record: RunRecord, failed: Callable[[str, Exception], None]) -> None:
        self._sinks, self._record, self._failed = list(sinks), record, failed
        self._open: list[RunSink] = []
        self._values: list[Value] = []
        self._alerts: list[Alert] = []
        self._findings: list[Finding] = []
        self._due = 0.0

    def start(self) -> None:
        """Open the sinks."""
        if self._sinks:
            script = self._record.meta.script
            self._open = self._each(self._sinks, lambda sink: sink.open(self._record.run, script))

    def add_rows(self, rows: Iterable[Row]) -> None:
        """Add measured values. Missing ones, and what the script has logged itself, are left out."""
        if self._open:
            for step, vital, layer, value in rows:
                known = number(value)
                if known is not None and not vital.startswith(LOGGED) and vital not in STEP_SERIES:
                    self._values.append((step, vital, layer, known))

    def set_findings(self, step: int, findings: Sequence[Finding]) -> None:
        """Add alerts for findings of warning or worse that are new or have become worse."""
        if self._open:
            worse = {(f.condition, f.layers): SEVERITIES.index(f.severity) for f in self._findings}
            for event, finding in changes(self._findings, findings):
                rank = SEVERITIES.index(finding.severity)
                if event in ("appeared", "severity") and rank > worse.get((finding.condition, finding.layers), 0):
                    self._alerts.append(_alert(step, finding))
            self._findings = list(findings)

    def add_entry(self, entry: JournalEntry) -> None:
        """Add an alert if the closed loop has taken something back."""
        if self._open and entry.action in _TAKEN_BACK:
            title = f"{entry.component}: {entry.action}"
            self._alerts.append(Alert(entry.step, "warning", title, f"{entry.why} {entry.where}".strip()))

    def write_if_due(self) -> None:
        """Write what was added, if the last write is long enough ago."""
        if self._open and (self._values or self._alerts) and time.monotonic() >= self._due:
            self.write_now()

    def write_now(self) -> None:
        """Write what was added."""
        values, alerts, began = self._values[-MOST:], self._alerts, time.monotonic()
        self._values, self._alerts = [], []
        self._open = self._each(self._open, lambda sink: sink.write(values, alerts))
        now = time.monotonic()
        self._due = now + min(max(EVERY_SECONDS, (now - began) / SHARE), LONGEST_SECONDS)

    def stop(self, status: str) -> None:
        """Write the rest and close the sinks."""
        if self._values or self._alerts:
            self.write_now()
        self._each(self._open, lambda sink: sink.close(status))
        self._open = []

    def _each(self, sinks: Sequence[RunSink], call: Callable[[RunSink], None]) -> list[RunSink]:
        """Call every sink; returns those that have not failed. The script's random streams stay as they are."""
        well: list[RunSink] = []
        for sink in sinks:
            try:
                with streams_kept(), unseen():
                    call(sink)
                well.append(sink)
            except Exception as error:
                pass_on(error)
                self._failed(f"the sink {sink.name}", error)
        return well


def _alert(step: int, finding: Finding) -> Alert:
    where = f" in {', '.join(finding.layers[:3])}" if finding.layers else ""
    more = f" and {len(finding.layers) - 3} more layers" if len(finding.layers) > 3 else ""
    said = str(finding.evidence.get("text", ""))
    helps = f" Usually helps: {finding.prescriptions[0].do}." if finding.prescriptions else ""
    text = f"Since step {finding.since_step}{where}{more}: {said.rstrip('.')}.{helps}"
    return Alert(step, finding.severity, f"{finding.condition}: {finding.severity}", text)
