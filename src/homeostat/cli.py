"""The command `homeostat`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from typer.main import get_command

from homeostat.commands.app import app
from homeostat.commands.run import Ready

__all__ = ["app", "main"]

# the help lists the commands in this order
_SUBJECTS = (
    "run",
    "records",
    "export",
    "watch",
    "find",
    "library",
    "catalogue",
    "compare",
    "metrics",
    "check",
    "clinic",
    "new",
    "machine",
)
for _subject in _SUBJECTS:
    import_module(f"homeostat.commands.{_subject}")


def main() -> None:
    """Parse the command line and run the command.

    `homeostat run` starts its script here, outside of the parser and its exception handling.
    """
    _parse()()


def _parse() -> Callable[[], None]:
    try:
        get_command(app)(prog_name="homeostat")
    except Ready as ready:
        return ready.start
    return lambda: None
