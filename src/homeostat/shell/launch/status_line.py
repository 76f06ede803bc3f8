"""The status line of a run: one line at the end of the terminal that is erased before the script prints."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TextIO, cast

from homeostat.core.finding import Finding
from homeostat.core.signals import pass_on
from homeostat.shell.messages import BestEffort

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_ERASE = "\r\x1b[2K"
_COLOURS = {"info": "cyan", "warning": "yellow", "critical": "bold red"}


class StatusLine:
    """Prints messages and the status line during a script, on the stderr with which the script started.

    The line is drawn only on a terminal, at most `per_second` times a second, and only while the cursor stands at the
    start of a line: a progress bar or a prompt of the script is left alone. Writing to stdout or stderr erases it
    first; for this the `write` of the two stream objects is wrapped while the line is open, the objects stay the same.

    Args:
        quiet: print nothing.
        stream: the stream; None means `sys.stderr`.
        per_second: largest number of redraws per second.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None, per_second: float = 4.0) -> None:
        self._stream: TextIO | None = stream or sys.stderr
        self._out = BestEffort(self._stream)
        self._quiet = quiet
        self.live = not quiet and self.console.is_terminal and not self.console.is_dumb_terminal
        self._every, self._next = 1 / per_second, 0.0
        self._lock, self._pid = threading.RLock(), os.getpid()
        self._wrapped: list[TextIO] = []
        self._shown, self._at_start = False, True
        self._loss: float | None = None

    @cached_property
    def console(self) -> Console:
        """Where messages go. Made when first used, because its import takes a while."""
        from rich.console import Console

        return Console(file=cast(TextIO, self._out), quiet=self._quiet, highlight=False)

    def open(self) -> None:
        """Start to erase the line before the script prints."""
        if not self.live or self._wrapped:
            return
        for stream in {sys.stdout, self._stream}:
            if stream is not None and (stream is self._stream or stream.isatty()):
                self._wrap(stream)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=partial(_leave_child, weakref.ref(self)))

    def update(self, *, step: int, loss: float | None = None, worst: Finding | None = None) -> None:
        """Show the progress of the run. Cheap: most calls only read the clock.

        Args:
            step: completed optimizer steps.
            loss: loss of this step; None keeps the last one.
            worst: the worst current finding.
        """
        self._loss = self._loss if loss is None else loss
        if not self.live or (now := time.monotonic()) < self._next or os.getpid() != self._pid:
            return
        self._next = now + self._every
        with self._lock:
            if self._wrapped and self._at_start:
                self._draw(_line(step, self._loss, worst))

    def print(self, *parts: Any, **options: Any) -> None:
        """Print as `rich.console.Console.print` does; nothing if quiet or in a forked child."""
        if self._quiet or os.getpid() != self._pid:
            return
        with self._lock:
            self._erase()
            self.console.print(*parts, **options)
            self._at_start = True

    def close(self) -> None:
        """Erase the line and restore both streams."""
        if os.getpid() == self._pid:
            with self._lock:
                self._erase()
        while self._wrapped:
            del self._wrapped.pop().write

    def leave(self) -> None:
        """In a forked child: restore the streams and print nothing more."""
        self.live, self._shown, self._lock = False, False, threading.RLock()
        self.close()

    def _wrap(self, stream: TextIO) -> None:
        try:
            stream.write = partial(self._through, stream.write)  # type: ignore[method-assign]
        except AttributeError as error:
            pass_on(error)
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
        self._out.write(text)
        self._out.flush()


def _leave_child(line: weakref.ref[StatusLine]) -> None:
    if (found := line()) is not None:
        found.leave()


def _line(step: int, loss: float | None, worst: Finding | None) -> Text:
    from rich.text import Text

    parts = [Text("homeostat", style="dim"), Text(f"step {step:,}")]
    if loss is not None:
        parts.append(Text(f"loss {loss:.4g}"))
    if worst is not None:
        where = f" ({', '.join(worst.layers[:2])}{', ...' if len(worst.layers) > 2 else ''})" if worst.layers else ""
        parts.append(Text(f"{worst.condition}{where}", style=_COLOURS[worst.severity]))
    return Text("  ").join(parts)
