"""Serves the live page until Ctrl-C."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from homeostat.core.errors import HomeostatError
from homeostat.core.signals import pass_on
from homeostat.report.descriptions import vital_meanings
from homeostat.report.live.server import LOOPBACK, application
from homeostat.report.live.watched_runs import WatchedRuns
from homeostat.report.page import templates

PORT = 8470
END_SECONDS = 2
"""Time that open connections get when the server ends, in seconds."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that is bound to this host."""
    return host in LOOPBACK


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        HomeostatError: the port is in use or not allowed, or there is no such host.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host.strip("[]"), port))
        listening.listen(64)
    except (OSError, OverflowError) as error:
        listening.close()
        pass_on(error)
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            raise HomeostatError(f"port {port} is in use: choose another with --port N (0 takes a free one)") from error
        if number == errno.EACCES or isinstance(error, OverflowError):
            raise HomeostatError(f"port {port} is not allowed: choose one of 1024 to 65535 with --port N") from error
        raise HomeostatError(f"cannot listen on {host!r} ({error}): give one of this machine's with --host") from error
    return listening


def address(host: str, port: int, token: str, ids: Sequence[str]) -> str:
    """The address of the page: of these runs, or of the list."""
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host.strip("[]") else host
    query = urlencode([("run", run) for run in ids] + [("token", token)] * bool(token))
    return f"http://{shown}:{port}/{'run' if ids else ''}{f'?{query}' if query else ''}"


def serve(
    watched: WatchedRuns, ids: Sequence[str], host: str, port: int, started: Callable[[str], None] = lambda where: None
) -> None:
    """Serve until Ctrl-C.

    Args:
        watched: the runs.
        ids: ids of the runs on the first page; empty for the list.
        host: the address to listen on; beyond loopback, the page's address has a token.
        port: the port; 0 takes a free one.
        started: called with the page's address.

    Raises:
        HomeostatError: it cannot listen there, or jinja2 is missing.
        ImportError: starlette or uvicorn is not installed.
    """
    import uvicorn

    templates()
    vital_meanings()  # what takes long is imported before the first page is asked for
    token = "" if is_loopback(host) else secrets.token_urlsafe(18)
    box: list[Any] = []
    app = application(watched, token, lambda: bool(box) and box[0].should_exit)
    listening = bound(host, port)
    try:
        config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=END_SECONDS)
        box.append(server := uvicorn.Server(config))
        started(address(host, listening.getsockname()[1], token, ids))
        server.run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn has closed its connections, and passes Ctrl-C on
        pass
    finally:
        listening.close()
