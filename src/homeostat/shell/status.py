"""The status line of a run: one quiet line at the end of the terminal that gives way to whatever the script prints."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from functools import partial
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from homeostat.core.finding import Finding

_ERASE = "\r\x1b[2K"
_COLOURS = {"info": "cyan", "warning": "yellow", "critical": "bold red"}


class StatusLine:
    """Everything Homeostat says while a script runs, on the stderr the script started with.

    The line is drawn only on a terminal, at most `per_second` times a second, and only while the cursor stands at the
    start of a line: a progress bar or a prompt of the script is left alone. Writing to stdout or stderr erases it
    first; for this the `write` of the two stream objects is wrapped while the line is open, the objects stay the same.

    Args:
        quiet: say nothing at all.
        stream: where to write; None takes `sys.stderr`.
        per_second: most redraws a second.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None, per_second: float = 4.0) -> None:
        self._stream = stream or sys.stderr
        self.console = Console(file=self._stream, quiet=quiet, highlight=False)
        self.live = not quiet and self.console.is_terminal and not self.console.is_dumb_terminal
        self._every, self._next = 1 / per_second, 0.0
        self._lock, self._pid = threading.RLock(), os.getpid()
        self._write = self._stream.write
        self._wrapped: list[TextIO] = []
        self._shown, self._at_start = False, True
        self._loss: float | None = None

    def open(self) -> None:
        """Start making way for what the script prints."""
        if not self.live or self._wrapped:
            return
        for stream in {sys.stdout, self._stream}:
            if stream is self._stream or (stream is not None and stream.isatty()):
                self._wrap(stream)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=partial(_leave_child, weakref.ref(self)))

    def update(
        self, *, step: int, loss: float | None = None, worst: Finding | str | None = None, note: str = ""
    ) -> None:
        """Show where the run is. Cheap: most calls return after one look at the clock.

        Args:
            step: optimizer steps completed.
            loss: of this step; None keeps showing the last one known.
            worst: the worst finding that stands, or words for it.
            note: anything else worth a few words ("treating fc1").
        """
        self._loss = self._loss if loss is None else loss
        if not self.live or (now := time.monotonic()) < self._next or os.getpid() != self._pid:
            return
        self._next = now + self._every
        with self._lock:
            if self._wrapped and self._at_start:
                self._draw(_line(step, self._loss, worst, note))

    def print(self, *parts: Any, **options: Any) -> None:
        """Print for good, as `rich.console.Console.print` does; nothing when quiet or in a forked child."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._erase()
            self.console.print(*parts, **options)

    def close(self) -> None:
        """Erase the line and leave both streams as they were."""
        if os.getpid() == self._pid:
            with self._lock:
                self._erase()
        while self._wrapped:
            del self._wrapped.pop().write

    def leave(self) -> None:
        """In a forked child: give the streams back untouched and never speak again."""
        self.live, self._shown, self._lock = False, False, threading.RLock()
        self.close()

    def _wrap(self, stream: TextIO) -> None:
        try:
            stream.write = partial(self._through, stream.write)  # type: ignore[method-assign]
        except AttributeError:
            self.live = False
        else:
            self._wrapped.append(stream)

    def _through(self, write: Any, text: str) -> int:
        with self._lock:
            self._erase()
            if text:
                self._at_start = text.endswith("\n")
            return write(text)

    def _draw(self, line: Text) -> None:
        line.truncate(max(self.console.width - 1, 1), overflow="ellipsis")
        with self.console.capture() as captured:
            self.console.print(line, end="")
        self._say(_ERASE + captured.get())
        self._shown = True

    def _erase(self) -> None:
        if self._shown:
            self._shown = False
            self._say(_ERASE)

    def _say(self, text: str) -> None:
        try:
            self._write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self.live = False


def _leave_child(line: weakref.ref[StatusLine]) -> None:
    if (found := line()) is not None:
        found.leave()


def _line(step: int, loss: float | None, worst: Finding | str | None, note: str) -> Text:
    parts = [Text("homeostat", style="dim"), Text(f"step {step:,}")]
    if loss is not None:
        parts.append(Text(f"loss {loss:.4g}"))
    if isinstance(worst, Finding):
        where = f" ({', '.join(worst.layers[:2])}{', ...' if len(worst.layers) > 2 else ''})" if worst.layers else ""
        parts.append(Text(f"{worst.condition}{where}", style=_COLOURS[worst.severity]))
    elif worst:
        parts.append(Text(worst, style="yellow"))
    if note:
        parts.append(Text(note, style="dim"))
    return Text("  ").join(parts)
