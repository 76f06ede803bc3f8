"""Messages to people about a run, sent by a process of its own (`homeostat.sinks.messenger`).

Libraries that send mail draw from Python's global random stream, wait for servers, and would need a thread of the
script's process. A process of its own leaves all of that to the script, and outlives a run that is killed.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any

from homeostat.core.errors import BadSetting, HomeostatError
from homeostat.sinks.sink import Alert, Value

FIRST_SECONDS = 30.0
"""From the first alert to the first message: what comes together is sent together."""
PAUSE_SECONDS = 600.0
"""From a message to the next one, except that of the end."""
WAIT_SECONDS = 5.0
"""Longest wait for the last message when the run ends; it is still sent afterwards."""
_SEND = getattr(socket, "MSG_NOSIGNAL", 0) | getattr(socket, "MSG_DONTWAIT", 0)


class Notifier:
    """Sends alerts of severity warning or worse, and how the run ended, to addresses of apprise.

    Alerts are collected into one message. The end of the run is sent at once, also when its process was killed.

    Args:
        urls: addresses as apprise reads them ("mailto://user:password@example.org", "ntfy://topic").
        first, pause: seconds from the first alert to its message, and between messages.

    Raises:
        BadSetting: apprise is not installed, this system has no Unix sockets, or there is no address.
    """

    name = "notify"

    def __init__(
        self, urls: str | Iterable[str], *, first: float = FIRST_SECONDS, pause: float = PAUSE_SECONDS
    ) -> None:
        self._urls = [urls] if isinstance(urls, str) else list(urls)
        if not all(isinstance(url, str) and "://" in url for url in self._urls) or not self._urls:
            raise BadSetting("notify takes addresses like mailto://user:password@example.org or ntfy://topic")
        if find_spec("apprise") is None:
            raise BadSetting("messages need a library that is not installed: pip install 'homeostat[notify]'")
        if os.name != "posix":
            raise BadSetting("messages are sent on Linux and macOS only")
        self._paces = {"first": first, "pause": pause}
        self._owner = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def open(self, run: str, script: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "homeostat.sinks.messenger"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C ends the run, not its last message
                env={**os.environ, "PYTHONPATH": _paths()},
            )
        self._owner, self._socket = os.getpid(), ours
        self._tell(urls=self._urls, run=run, script=script, host=socket.gethostname(), **self._paces)

    def write(self, values: Sequence[Value], alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            if alert.severity != "info":
                self._tell(alert=f"{alert.title} (step {alert.step})\n{alert.text}")

    def close(self, status: str) -> None:
        """Send how the run ended.

        Raises:
            HomeostatError: a message could not be sent.
        """
        if os.getpid() != self._owner or self._process is None or self._socket is None:
            return
        self._tell(end=status)
        with self._socket:
            try:
                code = self._process.wait(WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                _SENDING.append(self._process)
                return
        if code != 0:
            raise HomeostatError("a message could not be sent; try the address with: apprise -vv --body test URL")

    def _tell(self, **message: Any) -> None:
        if self._socket is None or os.getpid() != self._owner:
            return
        data = json.dumps(message).encode() + b"\n"
        if self._socket.send(data, _SEND) != len(data):
            raise HomeostatError("the process that sends messages does not read them")


_SENDING: list[subprocess.Popen[bytes]] = []
"""Processes that still send; kept, because a Popen that is freed warns of its child."""


def _paths() -> str:
    """Where Homeostat and apprise are found in this process, less the folder of the script."""
    found = [spec.submodule_search_locations for spec in map(find_spec, ("homeostat", "apprise")) if spec is not None]
    return os.pathsep.join(dict.fromkeys(os.path.dirname(next(iter(places))) for places in found if places))
