"""The runs that a live view can show: those of a folder, and records that were named by their path."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from homeostat.core.errors import RecordError
from homeostat.core.finding import Finding
from homeostat.core.signals import pass_on
from homeostat.record.lookup import LAST, find_record
from homeostat.record.opening import check_inside, connect_to_read
from homeostat.record.reader import RunMeta, RunReader
from homeostat.record.schema import SUFFIX
from homeostat.report.live.followed_run import FollowedRun, signature_of

MOST_FOLLOWED = 16
"""Number of runs whose lines are kept in memory."""


class WatchedRuns:
    """Finds and follows runs. Its methods may be called from several threads.

    Args:
        folder: folder of the records; it may not exist yet.
        named: records outside of it, by their path.
    """

    def __init__(self, folder: Path, named: Sequence[Path] = ()) -> None:
        self.folder = folder
        self._named = {path.stem: path.resolve() for path in named}
        self._lock = threading.Lock()
        self._followed: OrderedDict[Path, FollowedRun] = OrderedDict()
        self._listed: dict[Path, tuple[object, RunMeta, list[Finding]]] = {}

    def follow(self, run: str) -> FollowedRun:
        """The run with this id, the unique start or end of an id, or "last"; never a path.

        Raises:
            RecordError: there is no such run.
        """
        if (path := self._named.get(run)) is None:
            path = find_record(run, self.folder)
        with self._lock:
            followed = self._followed.pop(path, None) or FollowedRun(path)
            self._followed[path] = followed
            while len(self._followed) > MOST_FOLLOWED:
                self._followed.popitem(last=False)
            return followed

    def listed(self) -> list[tuple[RunMeta, list[Finding]]]:
        """Every run that can be read, newest first, with its findings. Only changed files are opened."""
        files = [*self._named.values(), *(self.folder.glob(f"*{SUFFIX}") if self.folder.is_dir() else ())]
        with self._lock:
            self._listed = {path: entry for path in files if (entry := self._entry(path)) is not None}
            found = [(meta, findings) for _, meta, findings in self._listed.values()]
        return sorted(found, key=lambda run: run[0].started_utc, reverse=True)

    def _entry(self, path: Path) -> tuple[object, RunMeta, list[Finding]] | None:
        signature, known = signature_of(path), self._listed.get(path)
        if known is not None and known[0] == signature and known[1].status != "running":
            return known
        try:
            if path not in self._named.values():
                check_inside(self.folder, path)
            with RunReader(connect_to_read(path), path.resolve()) as reader:
                return signature, reader.meta, reader.findings()
        except RecordError as error:
            pass_on(error)
            return None


def ids_of(runs: Sequence[str], watched: WatchedRuns) -> list[str]:
    """The ids of runs that a user has named; "last" stays, since there may be none yet.

    Raises:
        RecordError: there is no such run.
    """
    return [run if run == LAST else watched.follow(run).path.stem for run in runs]
