"""Runs every arm of a study under every seed, resumable, and computes the verdict."""

from __future__ import annotations

import contextlib
import multiprocessing
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from homeostat.core.component import build
from homeostat.core.errors import BadSetting
from homeostat.studies.lab.cell import Cell, Finished, run_cell
from homeostat.studies.lab.run_cache import Cells, code, versions
from homeostat.studies.lab.study import Study
from homeostat.studies.lab.verdict import FEWEST_SEEDS, Measures, Verdict, interval, judge, number, overall, write

DEFAULT_FOLDER = Path("homeostat-runs") / "studies"
MOST_JOBS = 2


def run_study(
    study: Study | str,
    budget: str = "smoke",
    seeds: int | None = None,
    jobs: int = 1,
    out: Path | None = None,
    progress: bool = True,
    folder: Path = DEFAULT_FOLDER,
) -> Verdict:
    """Run the unfinished runs of a study, and compute its verdict.

    Args:
        study: a study, or its name (settings as `name:data=PATH`).
        budget: "smoke" or "paper".
        seeds: number of seeds (0, 1, 2, ...); None uses the study's own number for the budget.
        jobs: number of parallel processes, 1 or 2, with one thread each. The figures do not depend on it.
        out: also write the verdict to this file.
        progress: show a progress bar on stderr if it is a terminal.
        folder: folder of finished runs, used to continue after an interruption.

    Returns:
        The verdict. It is written to the package's verdict files if it was computed at paper budget, with at least
        five seeds and the study's default settings.

    Raises:
        UnknownName: no such study or budget.
        BadSetting: seeds or jobs out of range.
        KeyboardInterrupt: the user stopped it; finished runs stay cached.
    """
    study = _named(study) if isinstance(study, str) else study
    chosen = study.seeds(budget, seeds)
    if jobs not in range(1, MOST_JOBS + 1):
        raise BadSetting(f"jobs must be 1 to {MOST_JOBS}, got {jobs!r}")
    cells = Cells(study, budget, Path(folder))
    started = time.monotonic()
    wanted = [(arm, seed) for seed in chosen for arm in study.arms]
    run_missing(study, budget, wanted, cells, jobs, progress)
    command = command_of(study, budget, len(chosen), jobs)
    verdict = _judge(study, budget, chosen, cells, command, time.monotonic() - started)
    for path in filter(None, (out, _own_file(study, verdict))):
        write(verdict, Path(path))
    return verdict


def _named(text: str) -> Study:
    return build("study", text)


def command_of(study: Study, budget: str, seeds: int, jobs: int = 1) -> str:
    """The exact command that repeats a run of the harness."""
    default = type(study)().settings()
    extra = ",".join(f"{k}={v}" for k, v in study.settings().items() if v != default[k])
    name = shlex.quote(f"{study.name}:{extra}" if extra else study.name)
    return f"homeostat study {name} --budget {budget} --seeds {seeds} --jobs {jobs}"


def _own_file(study: Study, verdict: Verdict) -> Path | None:
    """Path of the verdict file in the package, or None if this verdict must not be stored there."""
    enough = verdict.budget == "paper" and len(verdict.seeds) >= FEWEST_SEEDS
    ours = type(study).__module__.startswith("homeostat.studies.")
    if not enough or not ours or study.settings() != type(study)().settings():
        return None
    return Path(str(files("homeostat.studies"))) / "verdicts" / f"{study.name}.json"


def run_missing(study: Study, budget: str, wanted: list[Cell], cells: Cells, jobs: int, progress: bool) -> None:
    """Run every unfinished arm and seed, with an optional progress bar, and store each result at once."""
    missing = [cell for cell in wanted if cells.get(cell) is None]
    with _bar(study, len(wanted), len(wanted) - len(missing), progress) as advance:
        for cell, finished in _finish(study, budget, missing, jobs):
            cells.keep(cell, finished)
            advance(cell)


def _finish(study: Study, budget: str, missing: list[Cell], jobs: int) -> Iterator[tuple[Cell, Finished]]:
    if jobs == 1 or len(missing) < 2:
        yield from ((cell, run_cell(study, cell, budget)) for cell in missing)
        return
    pool = multiprocessing.get_context("spawn").Pool(jobs, initializer=_ignore_interrupts)
    # leaving the block, also by Ctrl-C, ends the workers; finished runs are already stored
    with pool:
        yield from pool.imap_unordered(_pooled, [(study, cell, budget) for cell in missing])


def _pooled(job: tuple[Study, Cell, str]) -> tuple[Cell, Finished]:
    study, cell, budget = job
    return cell, run_cell(study, cell, budget)


def _ignore_interrupts() -> None:
    """Ignore Ctrl-C in workers; the parent handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _bar(study: Study, total: int, done: int, progress: bool) -> Iterator[Callable[[Cell], None]]:
    if not (progress and sys.stderr.isatty()):
        yield lambda cell: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(study.name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda cell: bar.update(task, advance=1, description=f"{cell[0]}, seed {cell[1]}")


def _judge(study: Study, budget: str, seeds: tuple[int, ...], cells: Cells, command: str, wall: float) -> Verdict:
    runs = {seed: {arm: cells.finished((arm, seed)) for arm in study.arms} for seed in seeds}
    by_seed = {seed: {arm: run.measures for arm, run in row.items()} for seed, row in runs.items()}
    judged = tuple(judge(expectation, by_seed) for expectation in study.expectations)
    return Verdict(
        study=study.name,
        claim=study.claim,
        verdict=overall(judged),
        expectations=judged,
        arms={arm: _summary(study.arms[arm], [by_seed[s][arm] for s in seeds]) for arm in study.arms},
        seeds=seeds,
        per_seed={str(seed): {arm: dict(m) for arm, m in row.items()} for seed, row in by_seed.items()},
        budget=budget,
        settings={**study.settings(), **study.sizes(budget)},
        tuning=study.tuning,
        versions=versions(),
        code=code(study),
        command=command,
        date=datetime.now(UTC).date().isoformat(),
        wall_seconds=wall,
        run_seconds=sum(run.seconds for row in runs.values() for run in row.values()),
        processor_seconds=sum(run.processor_seconds for row in runs.values() for run in row.values()),
    )


def _summary(says: str, rows: list[Measures]) -> dict[str, Any]:
    """Mean and 95% interval of every scalar measure."""
    names = [name for name, value in rows[0].items() if not isinstance(value, list)]
    columns: Mapping[str, list[float]] = {name: [number(row, name) for row in rows] for name in names}
    summary = {name: {"mean": sum(c) / len(c), "interval": list(interval(c))} for name, c in columns.items()}
    return {"what": says, "measures": summary}
