"""Prints a verdict on the terminal."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from homeostat.studies.lab.verdict import FAILS, HOLDS, LEVEL, Verdict

_COLOUR = {HOLDS: "green", FAILS: "red"}


def show(verdict: Verdict, console: Console | None = None) -> None:
    """Print the claim, the expectations with their results, the arms, and the command."""
    (console or Console()).print(render(verdict))


def render(verdict: Verdict) -> Group:
    """The verdict as a rich renderable."""
    kept = len(verdict.reservations)
    but = f"; but {kept} secondary expectation{'s' * (kept != 1)} not seen" if verdict.verdict == HOLDS and kept else ""
    head = Text.assemble((verdict.study, "bold"), ": ", (verdict.verdict, f"bold {_colour(verdict.verdict)}"), but)
    runs = f"seeds: {len(verdict.seeds)}, arms: {len(verdict.arms)}, budget: {verdict.budget}"
    busy = f"{_figure(verdict.processor_seconds)} s of processor time"
    times = f"{verdict.run_seconds:.0f} s of runs ({busy}), {verdict.wall_seconds:.0f} s on the clock"
    tail = Text(f"{runs}, {times}\n{verdict.command}", style="dim")
    arms = [_arms(verdict)] if verdict.seeds else []
    return Group(head, Text(verdict.claim, style="italic"), _expectations(verdict), *arms, tail)


def _expectations(verdict: Verdict) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("", "expected", "effect", "interval", "must exceed", "seen"):
        table.add_column(heading, justify="left" if heading in ("", "expected", "seen") else "right")
    for j in (*verdict.preconditions, *sorted(verdict.expectations, key=lambda j: j.role)):
        span = f"{_figure(j.interval[0])} to {_figure(j.interval[1])}"
        seen = Text(j.verdict, style=_colour(j.verdict))
        table.add_row(j.role, j.says, _figure(j.effect), span, _figure(j.threshold), seen)
    return table


def _arms(verdict: Verdict) -> Table:
    """One row per arm, with its measures in one cell, because there may be many of both."""
    table = Table("arm", f"mean ± half of the {LEVEL:.0%} interval", box=None, pad_edge=False)
    for arm, summary in verdict.arms.items():
        table.add_row(arm, "; ".join(f"{name} {_cell(found)}" for name, found in summary["measures"].items()))
    return table


def _cell(found: dict[str, Any]) -> str:
    reach = (found["interval"][1] - found["interval"][0]) / 2
    return _figure(found["mean"]) + (f" ± {_figure(reach)}" if math.isfinite(reach) else "")


def _figure(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"


def _colour(verdict: str) -> str:
    return _COLOUR.get(verdict, "yellow")
