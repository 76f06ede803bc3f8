"""Commands about this installation: demo, doctor, version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from homeostat import __version__
from homeostat.commands.app import command, missing_extra, show_json
from homeostat.commands.records import DEFAULT, PAGE, AsJson, Folder


@command("homeostat demo", "homeostat demo --seeds 2 --tasks 20 --json")
def demo(
    seeds: Annotated[int, typer.Option(metavar="N", help="Number of seeds, at least 2.")] = 5,
    tasks: Annotated[int, typer.Option(metavar="N", help="Number of tasks, more than 10.")] = 40,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File of the report page.")] = PAGE,
    record: Folder = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Train on digits whose labels keep changing, untreated and under the closed loop. Takes about a minute."""
    try:
        from homeostat import demo

        demo.main(seeds=seeds, tasks=tasks, report=out, folder=record, as_json=as_json)
    except ImportError as error:
        raise missing_extra("all", error) from error


@command("homeostat version --json")
def version(as_json: AsJson = False) -> None:
    """Print the version."""
    if as_json:
        return show_json({"version": __version__})
    typer.echo(f"homeostat {__version__}")


@command("homeostat doctor", "homeostat doctor --json")
def doctor(as_json: AsJson = False) -> None:
    """Check this installation: torch's hooks, optional extras, and a small training run.

    Exit code 1 if a required check fails.
    """
    from homeostat.commands.doctor import examine

    found = examine()
    if as_json:
        show_json(found.to_json())
    else:
        _print(found)
    if not found.well:
        raise typer.Exit(1)


def _print(found: Any) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    marks = {
        "ok": ("ok", "green"),
        "missing": ("-", "dim"),
        "blind": ("not measured", "yellow"),
        "broken": ("FAILED", "bold red"),
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in found.checks:
        word, style = marks[check.state]
        table.add_row(Text(word, style=style), Text(check.what), Text(check.says))
    Console(highlight=False).print(table)
    typer.echo("all required checks passed" if found.well else "a required check failed; see above")
