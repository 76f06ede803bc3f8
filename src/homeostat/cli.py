"""The command `homeostat`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from homeostat.commands.quick_run import quick_arguments, ready
from homeostat.core.errors import HomeostatError


def main() -> None:
    """Parse the command line and run the command.

    `homeostat run` starts its script here, outside of the parser and its exception handling.
    """
    _parse()()


def _parse() -> Callable[[], None]:
    if sys.argv[1:2] == ["run"] and (given := quick_arguments(sys.argv[2:])) is not None:
        try:
            return ready(*given)
        except HomeostatError:
            pass  # the full parser meets the same error and prints it
    from homeostat.commands.parser import parse

    return parse()


def __getattr__(name: str) -> Any:
    if name == "app":
        from homeostat.commands.parser import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
