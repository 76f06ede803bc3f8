"""Writes the record of one run. Calls only fill a buffer; the file is touched at most about once a second."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from homeostat.core.errors import BadSetting
from homeostat.core.finding import Finding, JournalEntry
from homeostat.record.changes import changes
from homeostat.record.environment import birth_of, device_names, environment
from homeostat.record.files import claim, connect_to_read, connect_to_write, new_run, unwritable
from homeostat.record.plain import dumps, number
from homeostat.record.reader import RunReader
from homeostat.record.schema import ABOUT, MARKS, RUN_FACTS, TABLES

FLUSH_SECONDS = 1.0
STATUSES = ("finished", "failed", "interrupted")


_SERIES = "INSERT OR IGNORE INTO series (id, vital, layer) VALUES (?, ?, ?)"
_VALUES = "INSERT OR REPLACE INTO vitals (series, step, value) VALUES (?, ?, ?)"
_EVENT = "INSERT INTO finding_events (step, event, condition, severity, finding) VALUES (?, ?, ?, ?, ?)"
_JOURNAL = (
    "INSERT INTO journal (step, component, action, place, why, before, after, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_BOUNDARY = "INSERT INTO boundaries (step, label) VALUES (?, ?)"
_CADENCE = "INSERT INTO cadences (step, vital, every) VALUES (?, ?, ?)"
_NOT_MEASURED = "INSERT INTO not_measured (what, why) VALUES (?, ?)"
_FACT = "INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)"
_STATEMENTS = (_SERIES, _VALUES, _EVENT, _JOURNAL, _BOUNDARY, _CADENCE, _NOT_MEASURED, _FACT)
_PROGRESS = "UPDATE run SET steps = ?, wall_seconds = ?, overhead = ?, updated_utc = ?"
_OPEN: weakref.WeakSet[RunRecord] = weakref.WeakSet()


class RunRecord(RunReader):
    """One run's record, being written. Made by `RunRecord.create`; reads like any RunReader (reading flushes first).

    Values are buffered and committed at most every `FLUSH_SECONDS` of a clock that never jumps, so call `progress`
    (one clock read, no I/O in between) every step: then a killed process loses less than two seconds. In a forked
    child every writing method does nothing: the record belongs to the process that made it.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None) -> None:
        super().__init__(connection, path)
        self._lock = threading.RLock()
        self._owner, self._closed = os.getpid(), False
        self._pending: dict[str, list[tuple[Any, ...]]] = {sql: [] for sql in _STATEMENTS}
        self._series: dict[tuple[str, str], int] = {}
        self._said: set[tuple[str, str]] = set()
        self._pace: dict[str, int] = {}
        self._findings: list[Finding] = []
        self._findings_changed = False
        self._progress: tuple[int, float, float | None] = (0, 0.0, None)
        self._flushed = time.monotonic()
        if path is None:
            weakref.finalize(self, connection.close)
        else:
            _OPEN.add(self)

    @classmethod
    def create(
        cls,
        folder: Path | str | None,
        *,
        script: str,
        command: Sequence[str] | None = None,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Self:
        """Start a record.

        Args:
            folder: where the file goes, made when it is not there; None keeps the record in memory.
            script: the script or module as the user named it; its stem is part of the file's name.
            command: the full command line; None takes this process's.
            seed: seed of Homeostat's own draws.
            settings: Homeostat's settings, JSON-friendly.

        Raises:
            RecordError: the folder cannot be made or written to; nothing has been left behind.
        """
        path = None if folder is None else claim(Path(folder), script)
        command = [command] if isinstance(command, str) else list(sys.argv if command is None else command)
        run = path.stem if path else new_run(script)
        try:
            db = connect_to_write(path)
            db.executescript(f"BEGIN;{TABLES}{MARKS}")
            db.executemany("INSERT INTO about VALUES (?, ?)", ABOUT.items())
            db.execute(*_first_row(run, script, command, seed, settings or {}))
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if path:
                path.unlink(missing_ok=True)
            raise unwritable(path, error) from error
        return cls(db, path)

    def add_vitals(self, rows: Iterable[tuple[int, str, str, float | None]]) -> None:
        """Add (step, vital, layer, value) rows. None and NaN mean "due, but could not be measured"."""
        with self._lock:
            self._pending[_VALUES] += [
                (self._number_of(vital, layer), int(step), number(value)) for step, vital, layer, value in rows
            ]
        self._flush_if_due()

    def set_findings(self, step: int, findings: Sequence[Finding]) -> None:
        """Replace the findings that stand; what appeared, changed severity or layers, or went is kept as events."""
        with self._lock:
            events = changes(self._findings, findings)
            rows = [(int(step), event, f.condition, f.severity, dumps(f.to_json())) for event, f in events]
            self._pending[_EVENT] += rows
            self._findings_changed |= self._findings != list(findings)
            self._findings = list(findings)
        if events:
            self.flush()

    def add_journal(self, entry: JournalEntry) -> None:
        """Add one thing that was done to the run."""
        e = entry
        row = (int(e.step), e.component, e.action, e.where, e.why, number(e.before), number(e.after), dumps(e.detail))
        self._add(_JOURNAL, row)

    def add_boundary(self, step: int, label: str = "") -> None:
        """A new task or phase began after this many steps."""
        self._add(_BOUNDARY, (int(step), str(label)))

    def add_not_measured(self, what: str, why: str) -> None:
        """Say once that something could not be measured, and why; the same pair again is ignored."""
        if (what, why) not in self._said:
            self._said.add((what, why))
            self._add(_NOT_MEASURED, (what, why))

    def set_cadence(self, step: int, vital: str, every: int) -> None:
        """From this step on the vital is measured every so many steps; an unchanged cadence is ignored."""
        if self._pace.get(vital) != every:
            self._pace[vital] = every
            self._add(_CADENCE, (int(step), vital, int(every)))

    def set_facts(self, **facts: Any) -> None:
        """Keep anything else about the run, JSON-friendly; a name given again is replaced.

        Raises:
            BadSetting: the name is one the record already uses for the run itself.
        """
        if taken := sorted(set(facts) & set(RUN_FACTS)):
            raise BadSetting(f"the record itself keeps {', '.join(taken)}; choose another name for that fact")
        for name, value in facts.items():
            self._add(_FACT, (name, dumps(value)))

    def progress(self, steps: int, wall_seconds: float, overhead: float | None = None) -> None:
        """Steps completed, seconds since the first one, and the fraction of them spent in Homeostat. Cheap."""
        self._progress = (steps, wall_seconds, overhead)
        self._flush_if_due()

    def flush(self) -> None:
        """Write everything buffered in one transaction.

        Raises:
            RecordError: the file cannot be written (disk full, locked, removed); the buffer is kept for another try.
        """
        with self._lock:
            if not self._mine():
                return
            self._flushed = time.monotonic()
            self._transaction(self._write)
            for rows in self._pending.values():
                rows.clear()
            self._findings_changed = False

    def close(self, status: str = "finished") -> None:
        """Write what is buffered and how the run ended ("finished", "failed", "interrupted"). A second call is ignored.

        The file is left as one plain SQLite file without companions, and stays readable through this object.

        Raises:
            RecordError: the last values could not be written.
        """
        if status not in STATUSES:
            raise BadSetting(f"a run ends as {', '.join(STATUSES)}, not {status!r}")
        with self._lock:
            if not self._mine():
                return
            try:
                self.flush()
                self._transaction(lambda: self._end(status))
            finally:
                self._closed = True
                if self.path:
                    _OPEN.discard(self)
                    _fold(self._db)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        with self._lock:
            self.flush()
            yield

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            if self.path is None or (self._mine() and not self._closed):
                self.flush()
                return super()._rows(sql, *values)
        # Closed, or in a forked child: SQLite forbids using this connection there.
        with closing(connect_to_read(self.path)) as db:
            return RunReader(db, self.path)._rows(sql, *values)

    def _mine(self) -> bool:
        return not self._closed and os.getpid() == self._owner

    def _add(self, sql: str, row: tuple[Any, ...]) -> None:
        with self._lock:
            self._pending[sql].append(row)
        self._flush_if_due()

    def _number_of(self, vital: str, layer: str) -> int:
        known = self._series.get((vital, layer))
        if known is None:
            known = self._series[vital, layer] = len(self._series) + 1
            self._pending[_SERIES].append((known, vital, layer))
        return known

    def _flush_if_due(self) -> None:
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def _transaction(self, write: Callable[[], None]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            write()
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise unwritable(self.path, error) from error

    def _write(self) -> None:
        for sql, rows in self._pending.items():
            self._db.executemany(sql, rows)
        if self._findings_changed:
            self._db.execute("DELETE FROM findings")
            rows = [(dumps(f.to_json()),) for f in self._findings]
            self._db.executemany("INSERT INTO findings (finding) VALUES (?)", rows)
        steps, seconds, overhead = self._progress
        self._db.execute(_PROGRESS, (int(steps), float(seconds), number(overhead), now_utc()))

    def _end(self, status: str) -> None:
        devices = json.dumps(device_names())
        self._db.execute(
            "UPDATE run SET status = ?, ended_utc = ?, environment = json_set(environment, '$.devices', json(?))",
            (status, now_utc(), devices),
        )


def now_utc() -> str:
    """The time as records keep it: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _first_row(run: str, script: str, command: list[str], seed: int | None, settings: Mapping[str, Any]):
    row = {
        "run": run,
        "script": str(script),
        "command": dumps(command),
        "cwd": os.getcwd(),
        "seed": seed,
        "settings": dumps(settings),
        "environment": dumps(environment()),
        "started_utc": now_utc(),
        "updated_utc": now_utc(),
        "status": "running",
        "host": platform.node(),
        "pid": os.getpid(),
        "birth": birth_of(os.getpid()),
    }
    return f"INSERT INTO run ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values())


def _fold(db: sqlite3.Connection) -> None:
    """Fold the write-ahead log into the file; a reader that holds it open makes SQLite do so later, by itself."""
    try:
        db.execute("PRAGMA busy_timeout = 0")
        db.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error:
        pass
    finally:
        db.close()


def _keep_connections_in_child() -> None:
    """A forked child must neither use nor close the parent's SQLite connection: one reference is never given back."""
    for record in list(_OPEN):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(record._db))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_connections_in_child)
