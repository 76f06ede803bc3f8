"""Reads a run record from a file, during the run, or in memory."""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from homeostat.core.errors import RecordError
from homeostat.core.finding import Finding, JournalEntry
from homeostat.core.signals import pass_on, suppressed
from homeostat.record import queries
from homeostat.record.columns import failures
from homeostat.record.environment import alive
from homeostat.record.opening import brief, one_line, time_limit, unreadable
from homeostat.record.queries import Query

Points = list[tuple[int, float | None]]
"""(step, value) pairs, by step; None where the value was due and could not be measured."""

SILENT_FOR = timedelta(minutes=10)
"""A run on another machine counts as unfinished if it has written nothing for this time."""


class Boundary(NamedTuple):
    step: int
    label: str


class RecordedCadence(NamedTuple):
    step: int
    vital: str
    every: int


class NotMeasured(NamedTuple):
    what: str
    why: str


class Failure(NamedTuple):
    """Internal errors of a part of Homeostat: step and text of the first one, and their number."""

    part: str
    step: int
    why: str
    times: int


class FindingEvent(NamedTuple):
    """A finding "appeared", changed its "severity" or "layers", or is "gone"."""

    step: int
    event: str
    finding: Finding


@dataclass(frozen=True)
class RunMeta:
    """What was run, where, when, and how it ended.

    Args:
        run: the id: the record's file name without .sqlite.
        path: the record's file; None in memory.
        status: "running", "finished", "failed", "interrupted", or "unfinished" (not closed, and its process is gone).
        started_utc, updated_utc, ended_utc: ISO 8601; ended_utc is None until the run is closed.
        overhead: fraction of the wall time spent inside Homeostat; None if unknown.
    """

    run: str
    path: Path | None
    script: str
    command: tuple[str, ...]
    cwd: str
    seed: int | None
    settings: dict[str, Any]
    environment: dict[str, Any]
    started_utc: str
    updated_utc: str
    ended_utc: str | None
    status: str
    steps: int
    wall_seconds: float
    overhead: float | None


class RunReader:
    """Reads a run record. Created by `open_record`; a `RunRecord` has the same methods during the run.

    Every method raises RecordError if the file cannot be read.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None) -> None:
        self._db, self.path = connection, path

    def _rows(self, query: Query, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a query, checked.

        Raises:
            RecordError: the file cannot be read, a value is invalid, or reading takes too long.
        """
        try:
            with time_limit(self._db):
                return query.checked_all(self._db.execute(query.sql, values).fetchall())
        except (sqlite3.Error, UnicodeDecodeError) as error:
            pass_on(error)
            raise unreadable(self.path, error) from error
        except (ValueError, OverflowError) as error:
            pass_on(error)
            raise self._damaged(error) from error

    def _damaged(self, why: object) -> RecordError:
        return RecordError(one_line(f"the record {self.path or 'in memory'} is damaged ({brief(why)})"))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads inside see the same snapshot, also during the run."""
        try:
            self._db.execute("BEGIN")
        except sqlite3.Error as error:
            pass_on(error)
            raise unreadable(self.path, error) from error
        try:
            yield
        finally:
            with suppressed(sqlite3.Error):
                self._db.execute("COMMIT")

    @property
    def meta(self) -> RunMeta:
        """What was run, where, when, and how it ended. Read from the file at every access."""
        row = dict(zip((name for name, _ in queries.RUN.columns), self._only(queries.RUN), strict=True))
        host, pid, birth = row.pop("host"), row.pop("pid"), row.pop("birth")
        if row["status"] == "running" and not _still_running(host, pid, birth, row["updated_utc"]):
            row["status"] = "unfinished"
        return RunMeta(path=self.path, **row)

    @property
    def run(self) -> str:
        """The run's id."""
        return self._only(queries.RUN_ID)[0]

    def _only(self, query: Query) -> tuple[Any, ...]:
        """The one row of the table `run`."""
        rows = self._rows(query)
        if len(rows) != 1:
            raise self._damaged(f"it describes {len(rows)} runs instead of one")
        return rows[0]

    def vitals(self) -> dict[str, dict[str, Points]]:
        """Vital -> layer -> [(step, value)], in the order in which they were first measured."""
        table: dict[str, dict[str, Points]] = {}
        points: dict[int, Points] = {}
        for number, vital, layer in self._rows(queries.SERIES):
            points[number] = table.setdefault(vital, {}).setdefault(layer, [])
        for number, step, value in self._rows(queries.VALUES):
            if number not in points:
                raise self._damaged(f"vitals.series: there is no series {number}")
            points[number].append((step, value))
        return table

    def series(self, name: str, layer: str) -> Points:
        """One vital of one layer; empty if it was never measured."""
        numbers = [number for number, *names in self._rows(queries.SERIES) if names == [name, layer]]
        return [point for number in numbers for point in self._rows(queries.LINE, number)]

    def layout(self) -> dict[str, dict[str, int]]:
        """Vital -> layer -> number of its series, in the order in which they were first measured."""
        table: dict[str, dict[str, int]] = {}
        for number, vital, layer in self._rows(queries.SERIES):
            table.setdefault(vital, {})[layer] = number
        return table

    def points_from(self, number: int, step: int) -> Points:
        """The points of a series, by its number from `layout`, from a step on."""
        return self._rows(queries.LINE_FROM, number, step)

    def findings(self) -> list[Finding]:
        """The current findings, in the order in which they were set."""
        return [finding for (finding,) in self._rows(queries.FINDINGS)]

    def finding_events(self) -> list[FindingEvent]:
        """When findings appeared, changed and were resolved, in order."""
        return [FindingEvent(*row) for row in self._rows(queries.FINDING_EVENTS)]

    def journal(self) -> list[JournalEntry]:
        """What was done to the run, in order."""
        return [JournalEntry(*row) for row in self._rows(queries.JOURNAL)]

    def boundaries(self) -> list[Boundary]:
        """The steps at which the user began a new task or phase."""
        return [Boundary(*row) for row in self._rows(queries.BOUNDARIES)]

    def not_measured(self) -> list[NotMeasured]:
        """What could not be measured, and why; each pair once."""
        return [NotMeasured(*row) for row in self._rows(queries.NOT_MEASURED)]

    def cadences(self) -> list[RecordedCadence]:
        """The cadences of vitals: from which step on, and every how many steps, in order."""
        return [RecordedCadence(*row) for row in self._rows(queries.CADENCES)]

    def facts(self) -> dict[str, Any]:
        """Other facts about the run."""
        return dict(self._rows(queries.FACTS))

    def failures(self) -> list[Failure]:
        """Parts of Homeostat that failed in this run; their measurements or findings are missing."""
        try:
            return [Failure(*fields) for fields in failures(self.facts().get("failed", {}))]
        except ValueError as error:
            pass_on(error)
            raise self._damaged(f"the fact failed: {error}") from error

    def close(self, status: str = "finished") -> None:
        """Close the file. May be called twice; `status` is for writers only."""
        self._db.close()

    def __enter__(self):
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        ended = "finished" if kind is None else "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
        self.close(ended)


def _still_running(host: str, pid: int, birth: str, updated_utc: str) -> bool:
    if host == platform.node():
        return alive(pid, birth)
    return datetime.now(UTC) - datetime.fromisoformat(updated_utc) < SILENT_FOR
