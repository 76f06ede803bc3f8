"""Homeostat's messages on stderr. A closed or full stream, or one without Unicode, causes no error."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TextIO

from homeostat.core.signals import suppressed

DEGRADE = "homeostat"
"""Name of the error handler for characters that the encoding of a stream lacks."""
_INSTEAD = {"▲": "!", "◆": "*", "●": "-", "✓": "ok", "→": "->", "±": "+-", "\N{MULTIPLICATION SIGN}": "x", "…": "..."}


def _degraded(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(_INSTEAD.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lost), error.end


codecs.register_error(DEGRADE, _degraded)


class BestEffort:
    """A text stream whose writes never fail.

    Writes to the interpreter's stream bypass its buffer. Otherwise text that cannot be written would stay in the
    buffer, and would change Python's exit code.

    Args:
        stream: the stream; None (a closed stream) drops all text.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._write = None if stream is None else stream.write  # a status line may wrap it later
        self._direct = os.name == "posix" and type(stream) is io.TextIOWrapper

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        with suppressed(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def write(self, text: str) -> int:
        if self._stream is not None and self._write is not None:
            data = text.encode(self.encoding, DEGRADE)
            with suppressed(OSError, ValueError):
                if not self._direct:
                    self._write(data.decode(self.encoding))
                    return len(text)
                self._stream.flush()  # text of the script comes first
                while data:
                    data = data[os.write(self._stream.fileno(), data) :]
        return len(text)

    def flush(self) -> None:
        if self._stream is not None and not self._direct:
            with suppressed(OSError, ValueError):
                self._stream.flush()


def say(text: str) -> None:
    """Print a message on stderr, if possible."""
    stream = BestEffort(sys.stderr)
    stream.write(f"homeostat: {text}\n")
    stream.flush()
