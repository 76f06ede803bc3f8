"""Internal errors: each stops the part in which it happened, is reported once, and does not stop training."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from homeostat.core.errors import HomeostatError, Refused
from homeostat.core.signals import pass_on, suppressed
from homeostat.record import RunRecord
from homeostat.shell.messages import say

DEBUG = "HOMEOSTAT_DEBUG"
"""Environment variable: set to anything but "" or 0, internal errors print their traceback."""


class Failures:
    """The parts of a run that failed, in the record under the fact "failed".

    Args:
        record: of the run.
        speak: takes messages for the user.
        strict: raise errors instead of reporting them.
        step: returns the current step.

    Attributes:
        parts: part -> {"step": of its first error, "why": that error, "times": number of errors}.
    """

    def __init__(
        self, record: RunRecord, speak: Callable[[str], object], strict: bool, step: Callable[[], int]
    ) -> None:
        self.parts: dict[str, dict[str, Any]] = {}
        self._record, self._speak, self._strict, self._step = record, speak, strict, step

    def guard(self, part: str) -> Guard:
        """A context that keeps an error inside from the user's training, unless the run is strict."""
        return Guard(self, part)

    def keeps(self, part: str, error: BaseException | None) -> bool:
        """Report an error if it is ours; False if it is to be raised."""
        if not isinstance(error, Exception):
            return False
        pass_on(error)
        if self._strict:
            return False
        self.note(part, error)
        return True

    def note(self, part: str, error: Exception) -> None:
        """Count an error of a part; the first one is reported and recorded."""
        if (known := self.parts.get(part)) is not None:
            known["times"] += 1
            return
        why = f"{type(error).__name__}: {error}"
        self.add(part, why)
        self._speak(f"an internal error in {part}, reported once, training goes on: {why}")
        print_traceback()

    def add(self, part: str, why: str) -> None:
        """Record the first error of a part that has already been reported."""
        self.parts[part] = {"step": self._step(), "why": why, "times": 1}
        self.write()

    def write(self) -> None:
        """Write the failures into the record, if it can still be written."""
        if self.parts:
            with suppressed(Exception):
                self._record.set_facts(failed={part: dict(entry) for part, entry in self.parts.items()})


class Guard:
    """See `Failures.guard`. A class, because it is entered at every step: a generator takes twice the time."""

    __slots__ = ("_failures", "_part")

    def __init__(self, failures: Failures, part: str) -> None:
        self._failures, self._part = failures, part

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        return error is not None and self._failures.keeps(self._part, error)


def print_traceback() -> None:
    """Print the traceback of the current error if `HOMEOSTAT_DEBUG` is set."""
    if os.environ.get(DEBUG, "") not in ("", "0"):
        say(traceback.format_exc())


def treatment_failure(error: Exception, what: str) -> tuple[str, str]:
    """The journal's action for an error inside a treatment ("refuse" or "error"), and its text."""
    if isinstance(error, Refused):
        return "refuse", f"{what}: {error}"
    print_traceback()
    kind = "" if isinstance(error, HomeostatError) else f"{type(error).__name__}: "
    return "error", f"{what}, an error in it: {kind}{error}"


def warn(text: str) -> None:
    """Warn; if warnings are errors, print instead, because a message must not stop training."""
    try:
        warnings.warn(f"homeostat: {text}", RuntimeWarning, stacklevel=4)
    except RuntimeWarning:
        say(text)
