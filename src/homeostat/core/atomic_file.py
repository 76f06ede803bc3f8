"""Write a file whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import re
import tempfile
from collections.abc import Generator
from pathlib import Path

from homeostat.core.signals import pass_on


@contextlib.contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """A temporary file in the folder of `path`; after the block it is flushed to the disk and renamed to `path`.

    A crash at any moment leaves the old file or the new one. Missing folders are created, and temporary files of killed
    processes of this machine are removed.

    Raises:
        OSError: the file cannot be written; the old file is unchanged and the temporary one is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    handle, name = tempfile.mkstemp(".part", f".{path.name}.{_host()}.{os.getpid()}.", path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all. Raises like `whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def reason(error: Exception) -> str:
    """The reason of an error, without the path, which the message names anyway."""
    return getattr(error, "strerror", None) or str(error)


def _remove_leftovers(path: Path) -> None:
    for part in path.parent.glob(f".{glob.escape(path.name)}.{_host()}.*.part"):
        process = part.name.split(".")[-3]
        if process.isdecimal() and not Path(f"/proc/{process}").exists() and Path("/proc/self").exists():
            part.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", platform.node()) or "here"


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _flush(path: Path) -> None:
    """Flush the system's cache to the disk; some systems and drives cannot do so for folders."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError as error:
        pass_on(error)
        return
    try:
        os.fsync(handle)
    except OSError as error:
        pass_on(error)
        if not path.is_dir():
            raise
    finally:
        os.close(handle)
