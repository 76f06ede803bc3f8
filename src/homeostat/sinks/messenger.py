"""The process that sends the messages of a run: `python -m homeostat.sinks.messenger`, started by `Notifier`.

Reads JSON lines from stdin, a socket. The first one has the addresses and the paces, then come {"alert": text}, and
last {"end": status}. A socket that closes without an end, or a parent that is gone, is a run that was killed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

LOOK_SECONDS = 1.0
"""How often it is looked whether the run's process is still there."""
LONGEST_SECONDS = 60.0
"""Longest time that sending the last message may take."""
MOST = 50
"""Alerts in a message; the number of others is given."""


class Digest:
    """Decides when the collected alerts are sent. Pure: times are given.

    Args:
        first: seconds from the first alert to the first message.
        pause: seconds between messages.
    """

    def __init__(self, first: float, pause: float) -> None:
        self._first, self._pause = first, pause
        self.alerts: list[str] = []
        self._due: float | None = None
        self._sent: float | None = None

    def add(self, alert: str, now: float) -> None:
        """Add an alert."""
        self.alerts.append(alert)
        if self._due is None:
            since = now if self._sent is None else max(now, self._sent + self._pause - self._first)
            self._due = since + self._first

    def due(self, now: float) -> bool:
        """Whether a message is to be sent."""
        return self._due is not None and now >= self._due

    def take(self, now: float) -> list[str]:
        """The alerts of the message that is sent now."""
        taken, self.alerts, self._due, self._sent = self.alerts, [], None, now
        return taken


def text_of(alerts: list[str]) -> str:
    """The body of a message.

    >>> text_of(["dead-units: warning (step 10)", "dead-units: warning (step 10)"])
    'dead-units: warning (step 10)'
    """
    different = list(dict.fromkeys(alerts))
    more = [f"and {len(different) - MOST} more"] if len(different) > MOST else []
    return "\n\n".join([*different[:MOST], *more])


def messages(
    about: dict[str, Any], lines: Iterable[dict[str, Any] | None], clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[str, str]]:
    """Title and body of every message. A line is None while there is nothing to read."""
    digest, ended = Digest(about["first"], about["pause"]), "killed"
    for line in lines:
        if line is not None and "alert" in line:
            digest.add(line["alert"], clock())
        if line is not None and "end" in line:
            ended = line["end"]
            break
        if digest.due(clock()):
            taken = digest.take(clock())
            yield f"{about['script']}: {taken[0].partition(chr(10))[0]}", f"{text_of(taken)}\n\n{_where(about)}"
    words = {"finished": "finished", "failed": "ended by an error", "interrupted": "was interrupted"}
    body = "\n\n".join(filter(None, [text_of(digest.alerts), _where(about)]))
    yield f"{about['script']} {words.get(ended, 'was killed')}", body


def _where(about: dict[str, Any]) -> str:
    return f"run {about['run']} on {about['host']}"


def read_lines(stream: socket.socket, parent: int) -> Iterator[dict[str, Any] | None]:
    """Lines of the socket until it closes or the parent is gone; None when a second has passed."""
    rest = b""
    while True:
        ready, _, _ = select.select([stream], [], [], LOOK_SECONDS)
        if not ready:
            if os.getppid() != parent:
                return
            yield None
            continue
        data = stream.recv(65536)
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield json.loads(line)


def main() -> int:
    """Send what is read from stdin. Returns 1 if a message could not be sent."""
    import apprise

    parent, sent_all = os.getppid(), True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # clusters end all processes; the message about that is still sent
    lines = read_lines(socket.socket(fileno=os.dup(0)), parent)
    about = next((line for line in lines if line is not None), None)
    if about is None:
        return 1
    sender = apprise.Apprise()
    for url in about["urls"]:
        sent_all &= bool(sender.add(url))
    for title, body in messages(about, lines):
        signal.alarm(int(LONGEST_SECONDS))
        sent_all &= bool(sender.notify(title=f"homeostat: {title}", body=body))
        signal.alarm(0)
    return 0 if sent_all else 1


if __name__ == "__main__":
    sys.exit(main())
