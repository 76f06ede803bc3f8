"""Finds run records: by path, by id, by the start or the end of an id, and all of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from homeostat.core.errors import RecordError
from homeostat.core.signals import pass_on
from homeostat.record.files import DEFAULT_FOLDER
from homeostat.record.opening import check_inside, connect_to_read
from homeostat.record.reader import RunMeta, RunReader
from homeostat.record.schema import SUFFIX

LAST = "last"


@dataclass(frozen=True)
class Runs:
    """The runs of a folder, newest first, and the files that could not be read, with the reason."""

    runs: tuple[RunMeta, ...]
    unreadable: tuple[tuple[Path, str], ...]

    def __iter__(self) -> Iterator[RunMeta]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)


def open_record(run: str | Path, folder: str | Path | None = None) -> RunReader:
    """Open a run record for reading, also while it is being written.

    Args:
        run: a path, a run's id, the unique start or end of an id, or "last" for the newest run.
        folder: folder of the records; None means `homeostat-runs`.

    Raises:
        RecordError: there is no such run, or more than one, or the file is not a readable record.
    """
    path = Path(run)
    if not os.path.isfile(path):
        path = find_record(str(run), folder)
    return RunReader(connect_to_read(path), path.resolve())


def find_record(run: str, folder: str | Path | None = None) -> Path:
    """The file of a run in a folder.

    Args:
        run: a run's id, the unique start or end of an id, or "last"; a path is refused.
        folder: folder of the records; None means `homeostat-runs`.

    Raises:
        RecordError: there is no such run in the folder, or more than one.
    """
    path = _by_id(run, home := Path(folder or DEFAULT_FOLDER))
    check_inside(home, path)
    return path


def list_runs(folder: str | Path | None = None) -> Runs:
    """Every run record of a folder, newest first. Files that cannot be read are reported, not raised.

    Raises:
        RecordError: the folder does not exist.
    """
    runs, unreadable = [], []
    home = Path(folder or DEFAULT_FOLDER)
    for path in _files(home):
        try:
            check_inside(home, path)
            with RunReader(connect_to_read(path), path.resolve()) as reader:
                runs.append(reader.meta)
        except RecordError as error:
            pass_on(error)
            unreadable.append((path, str(error)))
    return Runs(tuple(sorted(runs, key=lambda meta: meta.started_utc, reverse=True)), tuple(unreadable))


def _files(folder: Path) -> list[Path]:
    if not os.path.isdir(folder):
        raise RecordError(
            f"there is no folder {folder}: run `homeostat run SCRIPT` first, or name another with --record"
        )
    return sorted(folder.glob(f"*{SUFFIX}"), reverse=True)


def _by_id(run: str, folder: Path) -> Path:
    if "/" in run or run.endswith(SUFFIX):
        raise RecordError(f"there is no run record at {run}: `homeostat runs` lists those there are")
    files = _files(folder)
    matching = files[:1] if run == LAST else [f for f in files if f.stem == run]
    matching = matching or [f for f in files if f.stem.startswith(run)] or [f for f in files if f.stem.endswith(run)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise RecordError(
            f"{len(matching)} runs in {folder} start or end with {run!r}: {_some(matching)}; give more of the id"
        )
    raise RecordError(f"no run {run!r} in {folder}; the newest there: {_some(files) or 'none at all'}")


def _some(files: list[Path]) -> str:
    return ", ".join(f.stem for f in files[:5]) + (", ..." if len(files) > 5 else "")
