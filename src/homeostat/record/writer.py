"""Writes the record of a run. Calls fill a buffer; the file is written at most about once a second."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

from homeostat.core.errors import BadSetting, RecordError
from homeostat.core.finding import Finding, JournalEntry
from homeostat.core.signals import pass_on, suppressed
from homeostat.record import queries, statements
from homeostat.record.environment import birth_of, device_names
from homeostat.record.files import claim, connect_to_write, fold, new_run, transaction, unwritable
from homeostat.record.finding_events import changes
from homeostat.record.json_values import dumps, legible, number
from homeostat.record.opening import check_inside, connect_to_read
from homeostat.record.queries import STATUSES, Query
from homeostat.record.reader import RunReader
from homeostat.record.rescue import copy_from_file, descriptors, identity, never_close, still_open
from homeostat.record.schema import ABOUT, MARKS, RUN_FACTS, SUFFIX, TABLES
from homeostat.record.statements import first_row, now_utc

FLUSH_SECONDS = 1.0
RETRY_SECONDS = 30.0
"""Longest pause between two attempts while the file cannot be written."""
MOST_BUFFERED = 1_000_000
"""Largest number of buffered rows while the file cannot be written; beyond it the oldest measurements are dropped."""

_OPEN: weakref.WeakSet[RunRecord] = weakref.WeakSet()


class RunRecord(RunReader):
    """The record of a run, for writing. Created by `RunRecord.create`; a RunReader too (reading flushes first).

    Values are buffered and committed at most every `FLUSH_SECONDS` of a monotonic clock. Call `progress` at every step
    (it reads the clock, usually without I/O); then a killed process loses less than two seconds. In a forked child all
    writing methods do nothing, because the record belongs to the process that created it.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None) -> None:
        super().__init__(connection, path)
        self._lock = threading.RLock()
        self._owner, self._closed = os.getpid(), False
        self._pending: dict[str, list[tuple[Any, ...]]] = {sql: [] for sql in statements.STATEMENTS}
        self._series: dict[tuple[str, str], int] = {}
        self._said: set[tuple[str, str]] = set()
        self._pace: dict[str, int] = {}
        self._findings: list[Finding] = []
        self._findings_changed = False
        self._progress: tuple[int, float, float | None] = (0, 0.0, None)
        self._flushed, self._pause = time.monotonic(), FLUSH_SECONDS
        self._run: str = super()._rows(queries.RUN_ID)[0][0]
        self._file, self._descriptors = identity(path), descriptors(path)
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
            folder: folder of the file, created if it is missing; None keeps the record in memory.
            script: the script or module as the user named it; its stem is part of the file's name.
            command: the full command line; None means that of this process.
            seed: seed of Homeostat's random draws.
            settings: Homeostat's settings, JSON-friendly.

        Raises:
            RecordError: the folder cannot be created or written to; no file remains.
        """
        command = [command] if isinstance(command, str) else list(sys.argv if command is None else command)

        def fill(db: sqlite3.Connection, run: str) -> None:
            db.executescript(f"BEGIN;{TABLES}{MARKS}")
            db.executemany("INSERT INTO about VALUES (?, ?)", ABOUT.items())
            db.execute(*first_row(run, script, command, seed, settings or {}))
            db.execute("COMMIT")

        path = None if folder is None else claim(Path(folder), script, fill)
        try:
            db = connect_to_write(path)
            if path is None:
                fill(db, new_run(script))
        except sqlite3.Error as error:
            pass_on(error)
            if path:
                path.unlink(missing_ok=True)
            raise unwritable(path, error) from error
        return cls(db, path)

    @classmethod
    def resume(cls, folder: Path | str, run: str) -> Self | None:
        """Continue the record of a run that has ended or was killed; None if it is not in the folder.

        Raises:
            RecordError: the record cannot be read or written, or a process is still writing it.
        """
        home = Path(folder).resolve()
        path = home / f"{run}{SUFFIX}"
        if path.parent != home or not path.is_file():
            return None
        check_inside(home, path)
        connect_to_read(path).close()
        db = None
        try:
            db = connect_to_write(path)
            db.execute("BEGIN IMMEDIATE")
            if RunReader(db, path).meta.status == "running":
                raise RecordError(f"the run {run} is still running in another process")
            db.execute(statements.AGAIN, (platform.node(), os.getpid(), birth_of(os.getpid()), now_utc()))
            db.execute("COMMIT")
            record = cls(db, path)
            record._take_up()
        except BaseException as error:
            if db is not None:
                db.close()
            if isinstance(error, sqlite3.Error):
                raise unwritable(path, error) from error
            raise
        return record

    def supersede(self, step: int, findings: Sequence[Finding]) -> int:
        """Continue from a step: delete everything recorded after it. Returns the number of deleted steps.

        Args:
            step: completed optimizer steps.
            findings: the findings at that step.

        Raises:
            RecordError: the file cannot be written.
        """
        with self._lock:
            self.flush()
            last = super()._rows(queries.PROGRESS)[0][0]
            transaction(self._db, self.path, lambda: self._leave_out(step))
            self._take_up()
            self._findings, self._findings_changed = list(findings), True
        return max(last - step, 0)

    def _leave_out(self, step: int) -> None:
        for sql in statements.LATER:
            self._db.execute(sql, (step,))

    def _take_up(self) -> None:
        """Read the existing contents of the file."""
        held = RunReader(self._db, self.path)
        self._series = {(vital, layer): number for number, vital, layer in super()._rows(queries.SERIES)}
        self._said = {(missing.what, missing.why) for missing in held.not_measured()}
        self._pace = {cadence.vital: cadence.every for cadence in held.cadences()}
        self._findings = held.findings()
        self._progress = super()._rows(queries.PROGRESS)[0]

    def add_vitals(self, rows: Iterable[tuple[int, str, str, float | None]]) -> None:
        """Add (step, vital, layer, value) rows. None and NaN mean "due, but could not be measured"."""
        with self._lock:
            self._pending[statements.VALUES] += [
                (self._number_of(vital, layer), int(step), number(value)) for step, vital, layer, value in rows
            ]
        self._flush_if_due()

    def set_findings(self, step: int, findings: Sequence[Finding]) -> None:
        """Replace the current findings; their appearance, changes and resolution are stored as events."""
        with self._lock:
            events = changes(self._findings, findings)
            rows = [(int(step), event, f.condition, f.severity, dumps(f.to_json())) for event, f in events]
            self._pending[statements.EVENT] += rows
            self._findings_changed |= self._findings != list(findings)
            self._findings = list(findings)
        if events:
            self.flush()

    def add_journal(self, entry: JournalEntry) -> None:
        """Add a journal entry."""
        e = entry
        said = map(legible, (e.component, e.action, e.where, e.why))
        row = (int(e.step), *said, number(e.before), number(e.after), dumps(e.detail))
        self._add(statements.JOURNAL, row)

    def add_boundary(self, step: int, label: str = "") -> None:
        """Add a boundary: a new task or phase began after this step."""
        self._add(statements.BOUNDARY, (int(step), legible(str(label))))

    def add_not_measured(self, what: str, why: str) -> None:
        """Add that something could not be measured, and why; a repeated pair is ignored."""
        what, why = legible(what), legible(why)
        if (what, why) not in self._said:
            self._said.add((what, why))
            self._add(statements.NOT_MEASURED, (what, why))

    def set_cadence(self, step: int, vital: str, every: int) -> None:
        """Add the cadence of a vital from this step on; an unchanged cadence is ignored."""
        if self._pace.get(vital) != every:
            self._pace[vital] = every
            self._add(statements.CADENCE, (int(step), vital, int(every)))

    def set_facts(self, **facts: Any) -> None:
        """Store another fact about the run, JSON-friendly; an existing name is replaced.

        Raises:
            BadSetting: the name is reserved for the run itself.
        """
        if taken := sorted(set(facts) & set(RUN_FACTS)):
            raise BadSetting(f"the record itself keeps {', '.join(taken)}; choose another name for that fact")
        for name, value in facts.items():
            self._add(statements.FACT, (legible(name), dumps(value)))

    def progress(self, steps: int, wall_seconds: float, overhead: float | None = None) -> None:
        """Store completed steps, seconds since the first one, and the fraction spent in Homeostat. Cheap."""
        self._progress = (steps, max(wall_seconds, 0.0), None if overhead is None else max(overhead, 0.0))
        self._flush_if_due()

    def flush(self) -> None:
        """Write everything buffered in one transaction.

        Raises:
            RecordError: the file cannot be written (disk full, locked, removed); the buffer is kept for another
                attempt.
        """
        with self._lock:
            if not self._mine():
                return
            self._flushed = time.monotonic()
            try:
                lost = self._leave_lost_file()
                transaction(self._db, self.path, self._write, self._written)
            except RecordError:
                self._pause = min(2 * self._pause, RETRY_SECONDS)
                del self._pending[statements.VALUES][:-MOST_BUFFERED]
                raise
            self._pause = FLUSH_SECONDS
            if lost:
                raise RecordError(lost)

    def close(self, status: str = "finished") -> None:
        """Write the buffer and how the run ended ("finished", "failed", "interrupted"). A second call is ignored.

        Afterwards the record is a single SQLite file, still readable through this object.

        Raises:
            RecordError: the last values could not be written.
        """
        if status not in STATUSES:
            raise BadSetting(f"a run ends as {', '.join(STATUSES)}, not {status!r}")
        with self._lock:
            if not self._mine():
                return
            try:
                try:
                    self.flush()
                except RecordError as error:
                    pass_on(error)
                    if self.path is not None:
                        self._go_on_in_memory(str(error))
                        self.flush()
                    raise
                finally:
                    transaction(self._db, self.path, lambda: self._end(status))
            finally:
                self._closed = True
                if self.path:
                    _OPEN.discard(self)
                    fold(self._db)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        with self._lock:
            with suppressed(RecordError):
                self.flush()
            yield

    def _rows(self, query: Query, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            if self.path is None or (self._mine() and not self._closed):
                with suppressed(RecordError):  # a message was printed then; the written part can be read
                    self.flush()
                return super()._rows(query, *values)
        # closed, or in a forked child, where SQLite forbids the use of this connection
        with closing(connect_to_read(self.path)) as db:
            return RunReader(db, self.path)._rows(query, *values)

    @property
    def run(self) -> str:
        return self._run

    def note_unwritten(self, where: Path | None, why: str) -> None:
        """Store in the record that it is in memory only, or has more than its file, and why."""
        self.set_facts(unwritten={"path": str(where), "why": why})

    def _leave_lost_file(self) -> str:
        """Continue in memory if the file is no longer the opened one. Return the message for the user, or ""."""
        if self.path is None:
            return ""
        there = identity(self.path) == self._file
        if there and still_open(self._descriptors):
            return ""
        what = "closed by the script, with descriptors that are not its own" if there else "deleted or replaced"
        self._go_on_in_memory(why := f"the run record {self.path} was {what}")
        return f"{why}: the run is recorded in memory from now on"

    def _go_on_in_memory(self, why: str) -> None:
        """Stop using the file. Raises RecordError if its contents cannot be copied."""
        gone, memory = self.path, connect_to_write(None)
        if gone is None:
            return
        _OPEN.discard(self)
        try:
            if still_open(self._descriptors):
                self._db.backup(memory)
                self._db.close()
            else:
                never_close(self._db)
                copy_from_file(gone, memory)
        except (sqlite3.Error, OSError) as error:
            pass_on(error)
            self._closed = True
            raise unwritable(gone, error) from error
        self._db, self.path = memory, None
        weakref.finalize(self, memory.close)
        self._pending[statements.FACT].append(("unwritten", dumps({"path": str(gone), "why": why})))

    def _mine(self) -> bool:
        return not self._closed and os.getpid() == self._owner

    def _add(self, sql: str, row: tuple[Any, ...]) -> None:
        with self._lock:
            if self._mine():
                self._pending[sql].append(row)
        self._flush_if_due()

    def _number_of(self, vital: str, layer: str) -> int:
        if (known := self._series.get((vital, layer))) is not None:
            return known
        vital, layer = legible(vital), legible(layer)
        if (known := self._series.get((vital, layer))) is None:
            known = self._series[vital, layer] = len(self._series) + 1
            self._pending[statements.SERIES].append((known, vital, layer))
        return known

    def _flush_if_due(self) -> None:
        # otherwise a clock that jumps back would stop writing until it has caught up
        if abs(time.monotonic() - self._flushed) >= self._pause:
            self.flush()

    def _written(self) -> None:
        for rows in self._pending.values():
            rows.clear()
        self._findings_changed = False

    def _write(self) -> None:
        for sql, rows in self._pending.items():
            self._db.executemany(sql, rows)
        if self._findings_changed:
            self._db.execute("DELETE FROM findings")
            rows = [(dumps(f.to_json()),) for f in self._findings]
            self._db.executemany("INSERT INTO findings (finding) VALUES (?)", rows)
        steps, seconds, overhead = self._progress
        self._db.execute(statements.PROGRESS, (int(steps), float(seconds), number(overhead), now_utc()))

    def _end(self, status: str) -> None:
        devices = json.dumps(device_names())
        self._db.execute(
            "UPDATE run SET status = ?, ended_utc = ?, environment = json_set(environment, '$.devices', json(?))",
            (status, now_utc(), devices),
        )


def _keep_connections() -> None:
    for record in list(_OPEN):
        never_close(record._db)


if hasattr(os, "register_at_fork"):  # a forked child must neither use nor close the parent's SQLite connection
    os.register_at_fork(after_in_child=_keep_connections)
