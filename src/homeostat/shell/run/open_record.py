"""The record of an attached run: a new one, that of a resumed run, or one in memory if no file can be written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from homeostat.core.errors import RecordError
from homeostat.core.signals import pass_on
from homeostat.record import RunRecord
from homeostat.shell.run.settings import Settings


def open_for(
    settings: Settings,
    resumed: str | None,
    say: Callable[[str], object],
    strict: bool,
    script: str = "",
    command: Sequence[str] | None = None,
) -> RunRecord:
    """Open the record for writing.

    Args:
        resumed: id of the resumed run, None for a new run.
        script, command: of `homeostat run`; by default what `sys.argv` says.

    A resumed run goes on in its own record where that lies in the folder and nobody else writes it; else it gets a new
    one. A folder that cannot be written is no reason not to train: it is said, and the record is kept in memory.

    Raises:
        RecordError: only when `strict`.
    """
    about: dict[str, Any] = {
        "script": script or sys.argv[0] or "interactive",
        "command": command,
        "seed": settings.seed,
        "settings": settings.to_json(),
    }
    try:
        if settings.record is not None and resumed is not None:
            try:
                if (record := RunRecord.resume(settings.record, resumed)) is not None:
                    return record
            except RecordError as error:
                pass_on(error)
                say(f"a new record is begun, for that of {resumed} cannot be continued: {error}")
        return RunRecord.create(settings.record, **about)
    except RecordError as error:
        pass_on(error)
        if strict:
            raise
        say(f"{error}. Until then the record of this run is kept in memory only")
        why = str(error)
    record = RunRecord.create(None, **about)
    record.note_unwritten(settings.record, why)
    return record
