"""Runs the demo: two processes train; this one shows their progress and writes the report."""

from __future__ import annotations

import json
import multiprocessing
import queue as queues
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.live import Live

from homeostat.core.errors import BadSetting, HomeostatError
from homeostat.demo.arm import ARMS, EPOCHS, ITEMS, LATE, Progress, run_arm_in_process
from homeostat.demo.screen import ArmState, live_view, outcome_table
from homeostat.record import open_record
from homeostat.report import write_report
from homeostat.studies.lab.verdict import interval

SEEDS = 5
TASKS = 40


class DemoFailed(HomeostatError):
    """An arm of the demo ended with an error."""


def main(
    *,
    seeds: int = SEEDS,
    tasks: int = TASKS,
    report: Path | str = "homeostat-report.html",
    folder: Path | str = "homeostat-runs",
    as_json: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train untreated and under the closed loop, side by side, and compare the two.

    Args:
        seeds: number of seeds, at least 2.
        tasks: number of label permutations, more than 10.
        report: file of the page about the treated run.
        folder: folder for the records of the first seed of both arms.
        as_json: print one JSON object instead of tables.
        console: console to print to.

    Returns:
        The outcome, as printed by `--json`.

    Raises:
        BadSetting: too few seeds or tasks.
        DemoFailed: an arm failed; the message is that of its error.
    """
    if seeds < 2 or tasks <= LATE:
        raise BadSetting(f"the demo needs at least 2 seeds and more than {LATE} tasks, got {seeds} and {tasks}")
    console = console or Console()
    began = time.monotonic()
    arms = [ArmState(name, seeds, tasks) for name in ARMS]
    if not as_json:
        console.print(
            f"A 64-100-100-10 network learns {ITEMS:,} handwritten digits. Every {EPOCHS} epochs the labels are "
            f"permuted; there are {tasks} tasks. One arm is untreated; the closed loop treats the other.",
            highlight=False,
        )
    quiet = Console(quiet=True) if as_json else console
    with Live(live_view(arms, quiet.width), console=quiet, refresh_per_second=4) as live:
        for progress in _messages(seeds, tasks, Path(folder)):
            if progress.error:
                raise DemoFailed(f"the arm {progress.arm!r} ended with {progress.error}")
            next(a for a in arms if a.name == progress.arm).hear(progress)
            live.update(live_view(arms, quiet.width))
    outcome = _outcome(arms, time.monotonic() - began)
    with open_record(Path(arms[-1].record)) as record:
        outcome["report"] = str(write_report(record, Path(report), title="Homeostat demo: the closed loop"))
    _print(outcome, arms, console, as_json)
    return outcome


def _messages(seeds: int, tasks: int, folder: Path) -> Iterator[Progress]:
    """Messages of both arms until they are done. Ctrl-C and errors end the processes."""
    context = multiprocessing.get_context("spawn")
    channel: Any = context.Queue()
    workers = [
        context.Process(target=run_arm_in_process, args=(name, seeds, tasks, folder, channel), daemon=True)
        for name in ARMS
    ]
    left = len(workers) * seeds * tasks
    try:
        for worker in workers:
            worker.start()
        while left:
            try:
                yield channel.get(timeout=1.0)
                left -= 1
            except queues.Empty:
                dead = [w.exitcode for w in workers if w.exitcode not in (None, 0)]
                if dead:
                    raise DemoFailed(f"a training process ended with exit code {dead[0]}") from None
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _outcome(arms: list[ArmState], wall: float) -> dict[str, Any]:
    late = {arm.name: arm.late() for arm in arms}
    first, second = (late[arm.name] for arm in arms)
    paired = [second[seed] - first[seed] for seed in sorted(first)]
    low, high = interval(paired)
    return {
        "arms": {
            name: {
                "late_accuracy": fmean(v.values()),
                "interval": list(interval(list(v.values()))),
                "by_seed": list(v.values()),
            }
            for name, v in late.items()
        },
        "difference": {"mean": fmean(paired), "interval": [low, high], "seeds": len(paired)},
        "records": {arm.name: _shown(arm.record) for arm in arms},
        "wall_seconds": round(wall, 1),
    }


def _print(outcome: dict[str, Any], arms: list[ArmState], console: Console, as_json: bool) -> None:
    if as_json:
        print(json.dumps(outcome, indent=2))
        return
    difference = outcome["difference"]
    low, high = difference["interval"]
    caption = f"closed loop minus untreated, paired by seed: {difference['mean']:+.3f} (95% {low:+.3f} to {high:+.3f})"
    rows = [
        (name, arm["late_accuracy"], tuple(arm["interval"]), len(arm["by_seed"]))
        for name, arm in outcome["arms"].items()
    ]
    console.print()
    console.print(outcome_table(rows))
    console.print(caption, highlight=False)
    console.print(
        f"Took {outcome['wall_seconds']:.0f} s. Report of the treated run, seed 1: {outcome['report']}\n"
        f"Records of both arms, seed 1: {', '.join(outcome['records'].values())}",
        highlight=False,
        soft_wrap=True,
    )


def _shown(path: str) -> str:
    """A path relative to the working directory, if it is inside it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
