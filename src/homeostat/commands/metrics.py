"""The command that computes metrics of continual learning: metrics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from homeostat.commands.app import command, show_json
from homeostat.commands.records import DEFAULT, AsJson, Folder


@command(
    "homeostat metrics last",
    "homeostat metrics scores.csv",
    "homeostat metrics scores.csv --expert experts.csv --score reward --json",
)
def metrics(
    source: Annotated[
        str, typer.Argument(metavar="RUN|FILE.csv", help="A run that measured task-accuracy, or a table of scores.")
    ] = "last",
    expert: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Learning curves of single-task experts, for the last two metrics."),
    ] = None,
    score: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of scores in the tables.")] = None,
    window: Annotated[
        int, typer.Option(metavar="N", min=2, help="Evaluations in a window of forgetting and plasticity.")
    ] = 10,
    record: Folder = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Compute metrics of continual learning: accuracy, forgetting, transfer, stability gaps, relative performance.

    A table has the columns step, task and score, and either training (the task trained last, empty before any
    training) or kind (train or test).
    """
    from homeostat.report.continual_metrics import summarise
    from homeostat.report.score_log import from_record
    from homeostat.report.score_table import read_experts, read_scores

    if source.lower().endswith((".csv", ".tsv", ".txt")):
        scores = read_scores(Path(source), score)
    else:
        from homeostat.record import open_record

        with open_record(source, record) as reader:
            scores = from_record(reader)
    found = summarise(scores, read_experts(expert, score) if expert else None, window)
    if as_json:
        return show_json({"source": source, "metrics": [_json(metric) for metric in found]})
    _print(found, source)


def _json(metric: Any) -> dict[str, Any]:
    from homeostat.report.continual_metrics import MEANING

    value = None if math.isnan(metric.value) else metric.value
    shown = {"name": metric.name, "value": value, "mean_of": MEANING[metric.name], "parts": dict(metric.parts)}
    return shown | ({"missing": metric.missing} if metric.missing else {})


def _print(found: list[Any], source: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from homeostat.report.continual_metrics import MEANING

    table = Table(title=f"continual learning: {source}", box=None, title_justify="left", pad_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("mean of", overflow="fold", style="dim")
    for metric in found:
        if not metric.missing:
            table.add_row(metric.name, f"{metric.value:.4g}", MEANING[metric.name])
    console = Console(highlight=False)
    console.print(table)
    reasons: dict[str, list[str]] = {}
    for metric in found:
        if metric.missing:
            reasons.setdefault(metric.missing, []).append(metric.name)
    for why, names in reasons.items():
        console.print(f"[dim]not computed, because {why}: {', '.join(names)}")
