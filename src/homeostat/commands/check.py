"""The command `homeostat check`: checks the laws of registered and user-defined components."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from homeostat.commands.app import command, show_json
from homeostat.commands.records import AsJson
from homeostat.core.errors import BadInput, UnknownName

COLOURS = {"BROKEN": "bold red", "declared": "yellow", "kept": "green", "does not apply": "dim"}


@command(
    "homeostat check redo",
    "homeostat check my_package.vitals:MyVital --json",
    "homeostat check my_vital.py",
    "homeostat check --all --kind vital",
)
def check(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODULE:NAME | FILE.py | NAME]...",
            help="A component class in a module, all components of a module or file, or a registered name.",
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Check every registered component.")] = False,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="With --all: check only this kind.")] = None,
    law: Annotated[list[str] | None, typer.Option(metavar="LAW", help="Check only this law; repeatable.")] = None,
    thorough: Annotated[
        bool,
        typer.Option("--thorough", help="Also test long runs on every network, and a second process; takes minutes."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check the laws that every component must satisfy.

    Exit code 1 if a law is broken, 2 if a component cannot be checked.
    """
    if bool(targets) == all_ or (kind is not None and not all_):
        raise BadInput("name components as MODULE:NAME, FILE.py or NAME, or use --all (optionally with --kind)")
    chosen = _every(kind) if all_ else _chosen(targets or [])
    reports = _checked(chosen, thorough, law or [])
    if as_json:
        show_json({"components": [_json(report) for report in reports]})
    else:
        _show(reports)
    if any(report.failed for report in reports):
        raise typer.Exit(1)


def _every(kind: str | None) -> list[Any]:
    from homeostat.core.component import components, kinds
    from homeostat.testing.check import kinds_with_laws

    if kind is not None and kind not in kinds_with_laws():
        raise UnknownName("kind of component with laws", kind, kinds_with_laws())
    wanted = [k for k in kinds() if kind in (None, k) and k in kinds_with_laws()]
    return [cls for k in wanted for cls in components(k).values()]


def _chosen(targets: list[str]) -> list[Any]:
    from homeostat.testing.resolve import found

    return list(dict.fromkeys(cls for target in targets for cls in found(target)))


def _checked(chosen: list[Any], thorough: bool, only: list[str]) -> list[Any]:
    """A report for each component, with a progress bar on a terminal."""
    from homeostat.testing.check import as_component, check_component

    instances = [as_component(component) for component in chosen]  # fail before the long checks start
    reports = []
    with _progress(len(instances)) as advance:
        for number, component in enumerate(instances):
            step = advance(number, component.name)
            reports.append(check_component(component, thorough=thorough, only=only, progress=step))
    return reports


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int, str], Callable[[str, int, int], None]]]:
    """A progress bar on stderr that advances with each law; disabled if stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total)

        def advance(number: int, name: str) -> Callable[[str, int, int], None]:
            return lambda law, done, laws: progress.update(
                bar, completed=number + done / laws, description=f"{name}: {law}"
            )

        yield advance


def _json(report: Any) -> dict[str, Any]:
    """The JSON of one component; `reasons` explains broken, declared and inapplicable laws."""
    return {
        "name": report.component,
        "kind": report.kind,
        "ok": report.ok,
        "passed": list(report.passed),
        "failed": list(report.failed),
        "declared": list(report.declared),
        "skipped": list(report.skipped),
        "reasons": {**report.failed, **report.declared, **report.skipped},
    }


def _show(reports: list[Any]) -> None:
    """Print every law of a single component, or one line per component and then the broken and declared laws."""
    from rich.console import Console

    console = Console(highlight=False)
    if len(reports) == 1:
        _show_laws(console, reports[0])
    else:
        _show_components(console, reports)
    broken = sum(len(report.failed) for report in reports)
    count = f"{len(reports)} component{'s' * (len(reports) != 1)} checked"
    verdict = f"{broken} law{'s' * (broken != 1)} broken" if broken else "no law is broken"
    console.print(f"{count}: {verdict}", style="bold red" if broken else "bold green")


def _show_laws(console: Any, report: Any) -> None:
    """Print the laws of one component; broken laws are shown with their requirement."""
    from homeostat.testing.check import laws_of_kind

    demands = laws_of_kind(report.kind)
    rows = [
        (outcome, law, f"{why}\nThe law: {demands[law]}" if outcome == "BROKEN" and law in demands else why)
        for law, outcome, why in report.outcomes()
    ]
    _table(console, f"{report.kind} {report.component}", ("", "law", "why"), rows)


def _show_components(console: Any, reports: list[Any]) -> None:
    columns = ("component", "kept", "declared", "do not apply", "broken")
    counts = [(r.component, *(str(len(laws)) for laws in (r.passed, r.declared, r.skipped, r.failed))) for r in reports]
    _table(console, "", columns, counts)
    notable = [
        (outcome, f"{r.component}: {law}", why)
        for r in reports
        for law, outcome, why in r.outcomes()
        if outcome in ("BROKEN", "declared")
    ]
    if notable:
        _table(console, "", ("", "law", "why"), notable)


def _table(console: Any, title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, box=None, title_justify="left", pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, no_wrap=position < 2)
    for row in rows:
        table.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    console.print(table)
