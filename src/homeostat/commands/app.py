"""The command-line application: how commands are declared, how errors and JSON are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from homeostat.core.errors import HomeostatError

BAD_INPUT_EXIT = 2
"""Exit code of every error that is the user's to put right."""


class _Group(TyperGroup):
    """Shows Homeostat's own errors as one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HomeostatError as error:
            typer.echo(f"homeostat: {error}", err=True)
            raise typer.Exit(BAD_INPUT_EXIT) from None


app = typer.Typer(
    name="homeostat",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="The profiler and physician of a PyTorch training run.",
    epilog="Start with: homeostat run train.py",
)


def command(
    *examples: str, name: str | None = None, cls: type[TyperCommand] = TyperCommand, **settings: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a command; its help ends with the examples, which tests run through the parser."""
    epilog = "\n\n".join(["[bold]Examples[/bold]", *(example.replace("[", r"\[") for example in examples)])
    return app.command(name, cls=cls, epilog=epilog, **settings)


def show_json(value: Any) -> None:
    """Print one strict JSON value on stdout."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def missing_extra(extra: str, error: ImportError) -> HomeostatError:
    """The error for a library that only an extra installs."""
    return HomeostatError(
        f"this needs {error.name or 'a library'} that is not installed: pip install 'homeostat[{extra}]'"
    )
