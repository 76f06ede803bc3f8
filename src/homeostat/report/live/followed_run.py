"""Follows the record of one run: reads what is new, and holds its file open only while it reads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from homeostat.record.opening import connect_to_read
from homeostat.record.reader import RunReader
from homeostat.report.downsampling import Line, as_line
from homeostat.report.shown_run import ShownRun

POLL_SECONDS = 0.5
"""Shortest time between two reads of a record."""
ALIVE_SECONDS = 5.0
"""Time after which an unchanged record of a running process is read again, to see whether the process is there."""
IDLE_SHARE = 4.0
"""A read that took t seconds is followed by at least this many times t without one."""

_Signature = tuple[tuple[int, int], ...]


class FollowedRun:
    """The present state of a record. Its methods may be called from several threads.

    A reader of SQLite's write-ahead log delays the end of a run if it holds the file open at that moment, so every read
    opens the file, takes a snapshot and closes it. An unchanged file is not opened.

    Args:
        path: the record.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.version = path, 0
        self._lock = threading.Lock()
        self._signature: _Signature = ()
        self._read_at, self._next = 0.0, 0.0
        self._shown: ShownRun | None = None
        self._lines: dict[int, Line] = {}

    def shown(self) -> ShownRun:
        """The run; `version` grows when it has changed.

        Raises:
            RecordError: the record cannot be read.
        """
        with self._lock:
            now, signature = time.monotonic(), signature_of(self.path)
            if self._shown is not None and not self._due(now, signature):
                return self._shown
            with RunReader(connect_to_read(self.path), self.path) as reader, reader.snapshot():
                shown = ShownRun.read(reader)
            if self._shown is not None and _restarted(self._shown, shown):
                self._lines.clear()
            if shown != self._shown:
                self.version += 1
            self._shown, self._signature, self._read_at = shown, signature, now
            self._next = now + max(POLL_SECONDS, IDLE_SHARE * (time.monotonic() - now))
            return shown

    def _due(self, now: float, signature: _Signature) -> bool:
        running = self._shown is not None and self._shown.meta.status == "running"
        changed = signature != self._signature or (running and now - self._read_at > ALIVE_SECONDS)
        return changed and now >= self._next

    def lines(self, vital: str, layers: Collection[str] | None = None) -> Mapping[str, Line]:
        """The lines of a vital by layer, complete; None means all layers.

        Raises:
            RecordError: the record cannot be read.
        """
        with self._lock:
            with RunReader(connect_to_read(self.path), self.path) as reader, reader.snapshot():
                numbers = reader.layout().get(vital, {})
                wanted = {layer: n for layer, n in numbers.items() if layers is None or layer in layers}
                return {layer: self._line(reader, number) for layer, number in wanted.items()}

    def _line(self, reader: RunReader, number: int) -> Line:
        known = self._lines.get(number)
        if known is None or not len(known.steps):
            line = as_line(reader.points_from(number, 0))
        else:
            # the last point is read again: it may have been replaced
            new = as_line(reader.points_from(number, int(known.steps[-1])))
            kept = len(known.steps) - 1
            line = Line(
                np.concatenate([known.steps[:kept], new.steps]), np.concatenate([known.values[:kept], new.values])
            )
        self._lines[number] = line
        return line


def signature_of(path: Path) -> _Signature:
    """Size and time of change of a record and of its write-ahead log; they differ if something was written."""
    found = []
    for file in (path, path.with_name(f"{path.name}-wal")):
        try:
            seen = os.stat(file)
        except OSError:
            found.append((-1, -1))
        else:
            found.append((seen.st_mtime_ns, seen.st_size))
    return tuple(found)


def _restarted(old: ShownRun, new: ShownRun) -> bool:
    """Whether a resumed run has left out steps that were read before."""
    return new.meta.steps < old.meta.steps or new.facts.get("resumed") != old.facts.get("resumed")
