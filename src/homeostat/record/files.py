"""Files of run records: creating one, opening one for writing, and clear error messages."""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from homeostat.core.errors import RecordError
from homeostat.core.signals import pass_on, suppressed
from homeostat.record.environment import alive, birth_of
from homeostat.record.opening import one_line
from homeostat.record.schema import SUFFIX

DEFAULT_FOLDER = Path("homeostat-runs")
"""Default folder of records, relative to the working directory."""

_PART = ".part"
_HINTS = {
    "full": "free some space there, or record elsewhere with --record DIR",
    "locked": "another program holds it; close it there",
    "readonly": "choose a folder you can write to with --record DIR",
    "read-only": "choose a folder you can write to with --record DIR",
    "permission": "choose a folder you can write to with --record DIR",
    "unable to open": "the folder is gone or cannot be written to; record elsewhere with --record DIR",
    "exists": "a file is in the way; choose another folder with --record DIR",
    "not a directory": "a file is in the way; choose another folder with --record DIR",
    "disk i/o": "the disk or the network drive failed; record on a local disk with --record DIR",
}


def stem_of(script: str) -> str:
    """The part of a run's id that names its script: `path/my train.py` -> `my-train`."""
    name = Path(script).name.removesuffix(".py")
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:40] or "run"


def new_run(script: str) -> str:
    """A run's id: UTC time, script, four random hex digits (from the system, not from any seeded generator)."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{stem_of(script)}-{secrets.token_hex(2)}"


def claim(folder: Path, script: str, fill: Callable[[sqlite3.Connection, str], None]) -> Path:
    """Create a record file with a new name. It appears with its contents; a kill leaves no partial file.

    Args:
        fill: writes the first contents, given a connection and the run's id.

    Raises:
        RecordError: the folder cannot be created or written to.
    """
    path = folder
    try:
        make_private(folder)
        _remove_leftovers(folder)
        while True:
            path = folder.resolve() / f"{new_run(script)}{SUFFIX}"
            part = path.with_name(f".{path.name}.{os.getpid()}{_PART}")
            try:
                _fill(part, path.stem, fill)
                os.link(part, path)
                return path
            except FileExistsError as error:
                pass_on(error)
                continue
            finally:
                part.unlink(missing_ok=True)
    except (OSError, sqlite3.Error, OverflowError) as error:
        pass_on(error)
        raise unwritable(folder, error) from error


def make_private(folder: Path) -> None:
    """Create a folder and its missing parents, with access for this user only."""
    for missing in reversed([there for there in (folder, *folder.parents) if not there.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    if not folder.is_dir():
        raise FileExistsError(17, "a file exists there", str(folder))


def _fill(part: Path, run: str, fill: Callable[[sqlite3.Connection, str], None]) -> None:
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(part, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = MEMORY")
        fill(db, run)


def _remove_leftovers(folder: Path) -> None:
    """Temporary files of processes of this machine that were killed while they created a record."""
    for part in folder.glob(f".*{SUFFIX}.*{_PART}"):
        pid = part.name.removesuffix(_PART).rpartition(".")[2]
        if pid.isdecimal() and not alive(int(pid), birth_of(int(pid))):
            part.unlink(missing_ok=True)


def connect_to_write(path: Path | None, busy_seconds: float = 1.0) -> sqlite3.Connection:
    """A connection for a writer, with a write-ahead log, so that others can read during the run; None: in memory."""
    db = sqlite3.connect(path or ":memory:", timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def transaction(
    db: sqlite3.Connection, path: Path | None, write: Callable[[], None], written: Callable[[], None] = lambda: None
) -> None:
    """Write all or nothing, also if a signal handler of the script raises in between.

    Args:
        db: the connection.
        path: its file, for the message.
        write: executes the statements.
        written: called after everything is written.

    Raises:
        RecordError: it cannot be written.
    """
    before = db.total_changes
    try:
        db.execute("BEGIN IMMEDIATE")
        write()
        db.execute("COMMIT")
    except BaseException as error:
        if not isinstance(error, sqlite3.Error) and not db.in_transaction and db.total_changes > before:
            written()  # the handler ran between the commit and here
            raise
        with suppressed(sqlite3.Error):
            if db.in_transaction:
                db.execute("ROLLBACK")
        pass_on(error)
        if isinstance(error, (sqlite3.Error, ValueError, OverflowError)):
            raise unwritable(path, error) from error
        raise
    written()


def fold(db: sqlite3.Connection) -> None:
    """Merge the write-ahead log into the file. If a reader holds it open, SQLite does so later by itself."""
    try:
        db.execute("PRAGMA busy_timeout = 0")
        db.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        pass_on(error)
    finally:
        db.close()


def unwritable(path: Path | None, error: Exception) -> RecordError:
    """The error for a record that cannot be written, with what to do about it."""
    said = str(error).lower()
    hint = next((hint for word, hint in _HINTS.items() if word in said), "record elsewhere with --record DIR")
    return RecordError(one_line(f"cannot write the run record {path or 'in memory'} ({error}): {hint}"))
