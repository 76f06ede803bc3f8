"""The command `homeostat clinic`: how often the diagnosis is right on whole training programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from homeostat.commands.app import command, missing_extra
from homeostat.core.errors import BadInput


@command(
    "homeostat clinic --programs 100",
    "homeostat clinic --condition dormant-units --family mlp",
    "homeostat clinic --replay homeostat-clinic --resplit 5 --markdown clinic.md",
    "homeostat clinic --show 17",
)
def clinic(
    condition: Annotated[
        str, typer.Option(metavar="NAME", help="Only programs with this condition, or `healthy` ones.")
    ] = "",
    family: Annotated[str, typer.Option(metavar="NAME", help="Only this architecture, or architecture/style.")] = "",
    programs: Annotated[int, typer.Option(metavar="N", min=1, help="The first N programs.")] = 800,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of results; what is there is not run again.")] = Path(
        "homeostat-clinic"
    ),
    replay: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run nothing; judge the stored results of this folder anew.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as Markdown.")] = None,
    resplit: Annotated[int, typer.Option(metavar="K", min=0, help="Also split the families K other ways.")] = 0,
    cures: Annotated[
        bool, typer.Option("--cures", help="Also run treatable programs under the closed loop and without; see below.")
    ] = False,
    show: Annotated[int | None, typer.Option(metavar="N", min=0, help="Print the text of program N and end.")] = None,
) -> None:
    """Run generated training programs, healthy and sick, under the diagnosis, and report how often it is right.

    Every program is run as `homeostat run` would. 800 programs take about a quarter of an hour on one idle core. With
    `--cures`, programs with a treatable condition run four times more: without the fault, with `--treat auto`, with a
    random treatment, and from other initial weights.
    """
    try:
        from homeostat.clinic.clinic import chosen, report
        from homeostat.clinic.markdown import as_markdown
        from homeostat.clinic.programs import programs as all_programs

        if show is not None:
            typer.echo(all_programs(show + 1)[show].texts()[0], nl=False)
            return
        wanted = chosen(programs, condition, family)
        cases = _replayed(wanted, replay, condition) if replay else _run(wanted, out)
        found = report(cases, resplit)
        if cures:
            found["cures"] = _cures(wanted, out)
    except ModuleNotFoundError as error:
        raise missing_extra("studies", error) from error
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n")
    text = as_markdown(found, _asked())
    if markdown is not None:
        markdown.write_text(text)
    else:
        typer.echo(text, nl=False)


def _run(wanted: list[Any], out: Path) -> list[Any]:
    from homeostat.clinic.clinic import run
    from homeostat.clinic.store import Store

    with _bar(len(wanted)) as (bar, task):
        return run(wanted, Store(out), lambda program: bar.update(task, advance=1, description=program.name))


def _cures(wanted: list[Any], out: Path) -> dict[str, Any]:
    from homeostat.clinic import cures
    from homeostat.clinic.store import Store

    treated = cures.treatable(wanted)
    with _bar(len(treated)) as (bar, task):
        done = cures.run(
            treated, Store(out / "cures"), lambda program: bar.update(task, advance=1, description=program.name)
        )
    return cures.cure_rates(done)


def _replayed(wanted: list[Any], folder: Path, condition: str) -> list[Any]:
    from homeostat.clinic.clinic import judged
    from homeostat.clinic.store import FILE, Store

    if not (folder / FILE).exists():
        raise BadInput(f"there are no results in {folder}: `homeostat clinic --out {folder}` makes them")
    with _bar(len(wanted)) as (bar, task):
        cases = []
        for case in judged(wanted, Store(folder), condition):
            cases.append(case)
            bar.update(task, advance=1, description=case.program.name)
        return cases


@contextmanager
def _bar(total: int) -> Iterator[tuple[Any, Any]]:
    """A progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar, bar.add_task("", total=total)


def _asked() -> str:
    """The command line, without the folders of this machine."""
    words = [word if not word.startswith("/") else Path(word).name for word in sys.argv[1:]]
    return " ".join(["homeostat", *words])
