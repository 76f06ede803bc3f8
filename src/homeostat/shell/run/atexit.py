"""Closes the records of runs that were not detached when the interpreter ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable

_OPEN: dict[Callable[[str], None], int] = {}
"""Function that ends a run -> process of the run, for all active runs."""


def begin(end: Callable[[str], None]) -> None:
    """Register a run: `end(status)` is called when the interpreter ends before `done`."""
    if not _OPEN:
        atexit.register(_end_all)
    _OPEN[end] = os.getpid()


def done(end: Callable[[str], None]) -> None:
    """Unregister a run."""
    if _OPEN.pop(end, None) is not None and not _OPEN:
        atexit.unregister(_end_all)


def _end_all() -> None:
    for end, pid in list(_OPEN.items()):
        if pid == os.getpid():
            with contextlib.suppress(Exception):
                end(_status())


def _status() -> str:
    """How the program ended; the interpreter still has an uncaught error."""
    kind = getattr(sys, "last_type", None)
    if kind is None or hasattr(sys, "ps1"):
        return "finished"
    return "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
