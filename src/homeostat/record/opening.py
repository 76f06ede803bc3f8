"""Opens a record for reading. The file may come from anywhere: nothing in it is executed or can block the reader."""

from __future__ import annotations

import functools
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from homeostat.core.errors import RecordError
from homeostat.core.signals import pass_on
from homeostat.record.json_values import legible
from homeostat.record.schema import APPLICATION_ID, SCHEMA_VERSION, TABLES

READ_SECONDS = 60.0
"""Time limit of a statement, in seconds."""
LARGEST_VALUE = 64 * 2**20
"""Largest size of a text that is read, in bytes."""
LONGEST_REASON = 300
"""Largest length of a message about a record, in characters."""
_COMPANIONS = ("", "-wal", "-shm", "-journal")


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A read-only connection to a file, after checking that it is a run record.

    Raises:
        RecordError: the file does not exist, is not a record, is damaged, or was written by a newer Homeostat.
    """
    if not os.path.isfile(path):
        raise RecordError(f"there is no run record at {path}: `homeostat runs` lists those there are")
    try:
        with open(path, "rb"):
            pass
        return _checked(_connect(path, "mode=ro"), path)
    except sqlite3.OperationalError as error:
        pass_on(error)
        # In a read-only folder SQLite cannot create its shared memory file; a closed record needs none.
        if path.with_name(f"{path.name}-wal").exists():
            raise unreadable(path, error) from error
    except OSError as error:
        pass_on(error)
        raise unreadable(path, error.strerror or error) from error
    except (sqlite3.Error, UnicodeDecodeError) as error:
        pass_on(error)
        raise _foreign(path, error) from error
    try:
        return _checked(_connect(path, "immutable=1"), path)
    except (sqlite3.Error, UnicodeDecodeError) as error:  # some damage makes sqlite3 return text that cannot be decoded
        pass_on(error)
        raise _foreign(path, error) from error


def check_inside(folder: Path, path: Path) -> None:
    """Refuse a record that is a symbolic link out of its folder, or has one as a companion file.

    Raises:
        RecordError: there is such a link.
    """
    home = os.path.realpath(folder)
    for suffix in _COMPANIONS:
        there = f"{path}{suffix}"
        if os.path.islink(there) and os.path.dirname(os.path.realpath(there)) != home:
            raise RecordError(f"{there} is a link out of its folder: give the path it leads to")


@contextmanager
def time_limit(db: sqlite3.Connection) -> Iterator[None]:
    """Interrupt statements that take longer than `READ_SECONDS`."""
    end = time.monotonic() + READ_SECONDS
    db.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    try:
        yield
    finally:
        db.set_progress_handler(None, 0)


def unreadable(path: Path | None, why: object) -> RecordError:
    """The error for a record that cannot be read."""
    if str(why) == "interrupted":
        why = f"it takes longer than {READ_SECONDS:g} s"
    return RecordError(one_line(f"cannot read {path or 'the record in memory'}: {brief(why)}"))


def one_line(message: str) -> str:
    """A message as one line that is safe to print."""
    return " ".join(legible(message).split())


def brief(why: object) -> str:
    """A shortened reason, because it may quote long values of the record."""
    text = str(why)
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} ..."


def check_schema(db: sqlite3.Connection) -> None:
    """Refuse tables that differ from Homeostat's, and other views and triggers, which could execute code.

    Raises:
        ValueError: with what is wrong.
    """
    found = _objects(db)
    for (kind, name), sql in _expected().items():
        if found.get((kind, name)) != sql:
            raise ValueError(f"its {kind} {name} is not one of a run record")
    for kind, name in found:
        if kind in ("view", "trigger") and (kind, name) not in _expected():
            raise ValueError(f"it has a {kind} {name!r}, which no run record has")


def _objects(db: sqlite3.Connection) -> dict[tuple[str, str], str]:
    rows = db.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {(str(kind), str(name)): " ".join(str(sql).split()) for kind, name, sql in rows}


@functools.cache
def _expected() -> dict[tuple[str, str], str]:
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(TABLES)
        return _objects(db)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?{mode}"
    db = sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None, check_same_thread=False)
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0"):
        db.execute(f"PRAGMA {pragma}")
    return db


def _checked(db: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    try:
        with time_limit(db):
            (found,), (version,) = (
                db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
            )
            if found != APPLICATION_ID:
                raise RecordError(f"{path} is an SQLite file but not a run record of Homeostat")
            if version > SCHEMA_VERSION:
                raise RecordError(
                    f"{path} was written by a newer Homeostat (record schema {version}, this one reads up to "
                    f"{SCHEMA_VERSION}): upgrade with `pip install --upgrade homeostat`"
                )
            check_schema(db)
    except ValueError as error:
        db.close()
        pass_on(error)
        raise _foreign(path, error) from error
    except BaseException:
        db.close()
        raise
    return db


def _foreign(path: Path, error: object) -> RecordError:
    return RecordError(
        one_line(f"{path} is not a readable run record ({brief(error)}): it is damaged or something else; remove it")
    )
