"""A verdict on the terminal."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from homeostat.studies.verdict import FAILS, HOLDS, LEVEL, Verdict

_COLOUR = {HOLDS: "green", FAILS: "red"}


def show(verdict: Verdict, console: Console | None = None) -> None:
    """Print the claim, the expectations with what was seen, the arms, and how to run it again."""
    (console or Console()).print(render(verdict))


def render(verdict: Verdict) -> Group:
    """The verdict as something rich can print."""
    head = Text.assemble((verdict.study, "bold"), ": ", (verdict.verdict, f"bold {_colour(verdict.verdict)}"))
    runs = f"seeds: {len(verdict.seeds)}, arms: {len(verdict.arms)}, budget: {verdict.budget}"
    times = f"{verdict.run_seconds:.0f} s of runs, {verdict.wall_seconds:.0f} s on the clock"
    tail = Text(f"{runs}, {times}\n{verdict.command}", style="dim")
    return Group(head, Text(verdict.claim, style="italic"), _expectations(verdict), _arms(verdict), tail)


def _expectations(verdict: Verdict) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("expected", "effect", f"{LEVEL:.0%} interval", "must exceed", "seen"):
        table.add_column(heading, justify="left" if heading in ("expected", "seen") else "right")
    for j in verdict.expectations:
        span = f"{_figure(j.interval[0])} to {_figure(j.interval[1])}"
        seen = Text(j.verdict, style=_colour(j.verdict))
        table.add_row(j.says, _figure(j.effect), span, _figure(j.threshold), seen)
    return table


def _arms(verdict: Verdict) -> Table:
    names = list(dict.fromkeys(name for arm in verdict.arms.values() for name in arm["measures"]))
    table = Table(box=None, pad_edge=False)
    table.add_column("arm", min_width=max(len(word) for arm in verdict.arms for word in arm.split()))
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for arm, summary in verdict.arms.items():
        table.add_row(arm, *(_cell(summary["measures"].get(name)) for name in names))
    return table


def _cell(found: dict[str, Any] | None) -> str:
    """Mean and half the width of its interval."""
    if found is None:
        return ""
    reach = (found["interval"][1] - found["interval"][0]) / 2
    return _figure(found["mean"]) + (f" ± {_figure(reach)}" if math.isfinite(reach) else "")


def _figure(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "-"


def _colour(verdict: str) -> str:
    return _COLOUR.get(verdict, "yellow")
