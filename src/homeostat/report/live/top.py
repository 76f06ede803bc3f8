"""A run in the terminal while it trains: findings, the worst layers of each vital, and logged metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from homeostat.core.errors import RecordError
from homeostat.core.signals import pass_on
from homeostat.record.json_values import number, plain
from homeostat.record.lookup import LAST
from homeostat.report import charts, descriptions, formatting
from homeostat.report.downsampling import Line, worst_first
from homeostat.report.live.followed_run import FollowedRun
from homeostat.report.live.watched_runs import WatchedRuns
from homeostat.report.run_contents import first_vitals
from homeostat.report.shown_run import ShownRun
from homeostat.report.sparkline import sparkline
from homeostat.report.terminal import STYLES

REFRESH_SECONDS = 1.0
MOST_VITALS = 14
LAYERS_EACH = 2
"""Number of layers that are shown of a vital."""

Worst = list[tuple[str, str, Line]]


def show(watched: WatchedRuns, run: str, console: Console) -> None:
    """Show a run until it ends or Ctrl-C is pressed; the last view stays. Without any run yet, wait for one.

    Raises:
        RecordError: there is no such run, or its record cannot be read.
    """
    with Live(console=console, auto_refresh=False, transient=False) as live:
        try:
            while True:
                followed = _wait(watched, run, live)
                shown = followed.shown()
                live.update(top_view(shown, worst_lines(followed, shown), console.width), refresh=True)
                if shown.meta.status != "running":
                    return
                time.sleep(REFRESH_SECONDS)
        except KeyboardInterrupt:
            return


def _wait(watched: WatchedRuns, run: str, live: Live) -> FollowedRun:
    while True:
        try:
            return watched.follow(run)
        except RecordError as error:
            pass_on(error)
            if run != LAST:
                raise
            said = f"no runs yet in {watched.folder}; start one with: homeostat run SCRIPT. Waiting for it."
            live.update(Text(said), refresh=True)
            time.sleep(REFRESH_SECONDS)


def worst_lines(followed: FollowedRun, shown: ShownRun) -> Worst:
    """(vital, layer, line) of the worst layers: the loss first, then what the findings are read from.

    Raises:
        RecordError: the record cannot be read.
    """
    meanings, found = descriptions.vital_meanings(), Worst()
    heads = charts.chart_heads(shown.layout, meanings, first_vitals(shown.findings))
    logged = [head["name"] for head in heads if head["group"] != "vitals"]
    names = [head["name"] for head in heads if head["group"] == "vitals"]
    for name in [*names[: MOST_VITALS - min(len(logged), 4)], *logged[:4]]:
        lines = followed.lines(name)
        order = worst_first(lines, charts.meaning_of(name, meanings).worse, shown.named)
        found += [(name, layer, lines[layer]) for layer in order[:LAYERS_EACH]]
    return found


def top_view(shown: ShownRun, worst: Worst, width: int) -> RenderableType:
    """The view of one moment.

    Args:
        shown: the run.
        worst: lines to draw; see `worst_lines`.
        width: columns of the terminal.
    """
    meta, findings = shown.meta, formatting.causes_first(shown.findings)
    kind = formatting.health(findings, meta.steps, bool(shown.layout), shown.failures)
    mark = formatting.MARKS.get(kind, "✓" if kind == "healthy" else "?")
    state = f"{meta.run}: {meta.steps:,} steps, {formatting.duration(meta.wall_seconds)}, {meta.status}"
    headline = formatting.headline(findings, meta, bool(shown.layout), shown.failures)
    parts: list[RenderableType] = [Text(state, style="bold"), Text(f"{mark} {headline}", style=STYLES[kind])]
    for finding in findings:
        said = f"{'  ' * bool(finding.follows)}{formatting.MARKS[finding.severity]} {finding.condition}"
        line = Text(said, style=STYLES[finding.severity], no_wrap=True, overflow="ellipsis")
        line.append(f" since step {finding.since_step:,}: {formatting.evidence_text(finding)}", style="not bold")
        parts.append(line)
    table = Table(box=None, pad_edge=False)
    for name in ("vital", "layer", "last", "course"):
        table.add_column(name, justify="right" if name == "last" else "left", no_wrap=True, overflow="ellipsis")
    bars = max(8, width - 62)
    for vital, layer, line in worst:
        style = "bold" if layer in shown.named else ""
        cells = vital, layer, formatting.figure(_last(line)), sparkline(line.values, bars)
        table.add_row(*(Text(cell, style=style) for cell in cells))
    return Group(*parts, table) if worst else Group(*parts)


def moment(followed: FollowedRun) -> dict[str, Any]:
    """The run as JSON: its state, its findings, and the last value of every vital.

    Raises:
        RecordError: the record cannot be read.
    """
    shown = followed.shown()
    vitals: Mapping[str, Mapping[str, float | None]] = {
        vital: {layer: number(_last(line)) for layer, line in followed.lines(vital).items()} for vital in shown.layout
    }
    findings = [finding.to_json() for finding in formatting.causes_first(shown.findings)]
    state = {"run": shown.meta.run, "status": shown.meta.status, "steps": shown.meta.steps}
    return plain(state | {"findings": findings, "last": vitals})


def _last(line: Line) -> float | None:
    return float(line.values[-1]) if len(line.values) else None
