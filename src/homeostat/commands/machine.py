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
    seeds: Annotated[int, typer.Option(metavar="N", help="Runs of each arm, at least 2.")] = 5,
    tasks: Annotated[int, typer.Option(metavar="N", help="How often the problem changes, more than 10.")] = 40,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the page goes.")] = PAGE,
    record: Folder = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Train on real digits that keep changing, untreated and under the closed loop, side by side. About a minute."""
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
    """Check this installation: what can be hooked, which extras are there, and whether a small training run is seen.

    Exit code 1 if something that must work does not.
    """
    from homeostat.shell.doctor import examine

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
        "blind": ("not seen", "yellow"),
        "broken": ("FAILED", "bold red"),
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in found.checks:
        word, style = marks[check.state]
        table.add_row(Text(word, style=style), Text(check.what), Text(check.says))
    Console(highlight=False).print(table)
    typer.echo("everything that must work does" if found.well else "something that must work does not; see above")
