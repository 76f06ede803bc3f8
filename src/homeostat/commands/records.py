"""Commands that read run records: runs, findings, report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from homeostat.commands.app import command, missing_extra, show_json

RunName = Annotated[str, typer.Argument(metavar="RUN", help="Id of a run, its start or end, a path, or last.")]
Folder = Annotated[Path, typer.Option("--record", metavar="DIR", help="Folder of run records.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT = Path("homeostat-runs")
PAGE = Path("homeostat-report.html")


@command("homeostat runs", "homeostat runs --record elsewhere --json")
def runs(record: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """List the recorded runs, newest first."""
    from homeostat.record import list_runs

    found = list_runs(record)
    if as_json:
        unreadable = [{"path": str(path), "why": why} for path, why in found.unreadable]
        return show_json({"runs": [_meta(meta) for meta in found], "unreadable": unreadable})
    from rich.console import Console

    from homeostat.report.terminal import NARROW, runs_list, runs_table

    console = Console(highlight=False)
    if not len(found):
        console.print(f"no runs in {record}; start one with: homeostat run SCRIPT")
    else:
        console.print(runs_list(found) if console.width < NARROW else runs_table(found))
    for path, why in found.unreadable:
        typer.echo(f"skipped {path.name}: {why}", err=True)


@command("homeostat findings last", "homeostat findings 20260101-120000-train --json")
def findings(run: RunName = "last", record: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """Show the findings of a run, and what usually helps."""
    from homeostat.record import open_record, other_ranks
    from homeostat.record.json_values import plain

    with open_record(run, record) as reader:
        if as_json:
            found = [finding.to_json() for finding in reader.findings()]
            not_measured = [missing._asdict() for missing in reader.not_measured()]
            failed = [part._asdict() for part in reader.failures()]
            seen = {"run": reader.run, "diagnosed": not failed, "failed": failed}
            ranks = [plain(rank.to_json()) for rank in other_ranks(reader)]
            return show_json(seen | {"findings": found, "not_measured": not_measured, "ranks": ranks})
        from rich.console import Console

        from homeostat.report.terminal import print_summary

        print_summary(reader, Console(highlight=False), journal_rows=50)


@command("homeostat report last --open", "homeostat report 20260101-120000-train --out page.html")
def report(
    run: RunName = "last",
    out: Annotated[Path, typer.Option(metavar="FILE", help="File of the report page.")] = PAGE,
    open_page: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    record: Folder = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Write the report of a run: one HTML page that works offline. With --json, print the whole record instead."""
    from homeostat.record import open_record, to_json

    with open_record(run, record) as reader:
        if as_json:
            return show_json(to_json(reader))
        try:
            from homeostat.report.page import write_report

            path = write_report(reader, out)
        except ImportError as error:
            raise missing_extra("report", error) from error
    typer.echo(str(path))
    if open_page:
        typer.launch(path.resolve().as_uri())


def _meta(meta: Any) -> dict[str, Any]:
    return asdict(meta) | {"path": str(meta.path)}
