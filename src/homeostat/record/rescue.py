"""Continues a record in memory, with its contents, if its file can no longer be written."""

from __future__ import annotations

import ctypes
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from homeostat.core.signals import pass_on

Identity = tuple[int, int]


def identity(path: Path | None) -> Identity | None:
    """Device and inode of a file; None if it does not exist."""
    try:
        found = None if path is None else path.stat()
    except OSError as error:
        pass_on(error)
        return None
    return None if found is None else (found.st_dev, found.st_ino)


def descriptors(path: Path | None) -> dict[int, Identity]:
    """The open descriptors of a record and its companion files; empty if unknown (not Linux)."""
    found: dict[int, Identity] = {}
    if path is None or not os.path.isdir("/proc/self/fd"):
        return found
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith(str(path)):
                status = os.fstat(int(name))
                found[int(name)] = (status.st_dev, status.st_ino)
        except OSError as error:
            pass_on(error)
            continue
    return found


def still_open(known: dict[int, Identity]) -> bool:
    """Whether each descriptor still refers to the same file. After a script closes descriptors, its own files may get
    their numbers, and SQLite would write to them.
    """
    for number, file in known.items():
        try:
            status = os.fstat(number)
        except OSError as error:
            pass_on(error)
            return False
        if (status.st_dev, status.st_ino) != file:
            return False
    return True


def copy_from_file(path: Path, memory: sqlite3.Connection) -> None:
    """Copy a record by its path into a connection. SQLite shares state per file, so a copy of the file is opened.

    Raises:
        OSError, sqlite3.Error: it cannot be copied.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        for suffix in ("", "-wal"):
            if os.path.exists(f"{path}{suffix}"):
                shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
        with closing(sqlite3.connect(copy)) as db:
            db.backup(memory)


def never_close(connection: sqlite3.Connection) -> None:
    """Prevent a connection from closing its descriptors, by a reference that is never released."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
