"""Commands that show runs while they train: watch (a page) and top (the terminal)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from homeostat.commands.app import command, missing_extra, show_json
from homeostat.commands.records import DEFAULT, AsJson, Folder, RunName


@command("homeostat watch", "homeostat watch last --open", "homeostat watch 20260101-120000 20260102-090000")
def watch(
    run: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Ids, starts of ids, paths, or last; without one, a list of all runs."),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Address to listen on. Beyond loopback, the page's address has a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="Port; 0 takes a free one.")] = 8470,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    record: Folder = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Serve a live page of runs, on this machine only, until Ctrl-C. With --json, print its address as JSON."""
    try:
        from homeostat.report.live.serve import serve
        from homeostat.report.live.watched_runs import WatchedRuns, ids_of

        named = [Path(one) for one in run or () if Path(one).is_file()]
        watched = WatchedRuns(record, named)
        ids = ids_of([Path(one).stem if Path(one).is_file() else one for one in run or ()], watched)

        def started(where: str) -> None:
            if as_json:
                show_json({"address": where})
            else:
                typer.echo(f"{where}\nCtrl-C ends it.")
            if open_page:
                typer.launch(where)

        serve(watched, ids, host, port, started)
    except ImportError as error:
        raise missing_extra("watch", error) from error


@command("homeostat top", "homeostat top 20260101-120000-train --json")
def top(run: RunName = "last", record: Folder = DEFAULT, as_json: AsJson = False) -> None:
    """Show a run in the terminal while it trains, until it ends. With --json, print its present state once."""
    from homeostat.report.live.top import moment, show
    from homeostat.report.live.watched_runs import WatchedRuns

    path = Path(run)
    watched = WatchedRuns(record, [path] if path.is_file() else [])
    name = path.stem if path.is_file() else run
    if as_json:
        return show_json(moment(watched.follow(name)))
    from rich.console import Console

    show(watched, name, Console(highlight=False))
