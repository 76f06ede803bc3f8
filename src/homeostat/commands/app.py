"""The command-line application: declares commands, prints errors and JSON."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from homeostat.core.errors import HomeostatError
from homeostat.shell.messages import DEGRADE, say

BAD_INPUT_EXIT = 2
"""Exit code for errors in the user's input."""


class _Group(TyperGroup):
    """Prints Homeostat's own errors in one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with _degrading(sys.stdout), _degrading(sys.stderr):
                result = super().invoke(ctx)
                if sys.stdout is not None:
                    sys.stdout.flush()
                return result
        except HomeostatError as error:
            say(str(error))
        except OSError as error:
            if error.errno == errno.EPIPE:  # `| head`: the parser ends quietly
                raise
            say(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
            _drop_output()
        raise typer.Exit(BAD_INPUT_EXIT) from None


@contextlib.contextmanager
def _degrading(stream: Any) -> Iterator[None]:
    """Within it, characters that the stream's encoding does not have are replaced, not refused."""
    errors = stream.errors if isinstance(stream, io.TextIOWrapper) else None
    if errors is None:
        yield
        return
    stream.reconfigure(errors=DEGRADE)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            stream.reconfigure(errors=errors)


def _drop_output() -> None:
    """Forget what could not be written to stdout, or Python would try again when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    name="homeostat",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Measure, diagnose and treat PyTorch training runs.",
    epilog="Start with: homeostat run train.py",
)


def command(
    *examples: str, name: str | None = None, cls: type[TyperCommand] = TyperCommand, **settings: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a command. Its help ends with the examples; tests run them through the parser."""
    return app.command(name, cls=cls, epilog=epilog(*examples), **settings)


def epilog(*examples: str) -> str:
    """The end of a command's help."""
    return "\n\n".join(["[bold]Examples[/bold]", *(example.replace("[", r"\[") for example in examples)])


def show_json(value: Any) -> None:
    """Print one strict JSON value on stdout."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def missing_extra(extra: str, error: ImportError) -> HomeostatError:
    """The error for a missing library of an optional extra."""
    return HomeostatError(
        f"this needs {error.name or 'a library'} that is not installed: pip install 'homeostat[{extra}]'"
    )
