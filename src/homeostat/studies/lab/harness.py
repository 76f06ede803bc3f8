"""Runs every arm of a study under every seed, resumable, and computes the verdict."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from homeostat.catalogue.status import MACHINERY, code_of
from homeostat.core.component import build
from homeostat.core.errors import BadSetting
from homeostat.studies.lab.cell import Cell, Finished, run_cells
from homeostat.studies.lab.expectation import Measures, number
from homeostat.studies.lab.run_cache import Cells, versions
from homeostat.studies.lab.sequential import BLOCK, looks
from homeostat.studies.lab.study import Study
from homeostat.studies.lab.tuning import development_seeds
from homeostat.studies.lab.verdict import (
    ABSENT,
    FAILS,
    HOLDS,
    Judged,
    Verdict,
    history,
    interval,
    judge,
    judge_precondition,
    overall,
    with_robust,
    write,
)

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

    At paper budget, settings that the study leaves open are chosen on development seeds, then its preconditions are
    judged on development seeds. If they hold, judged seeds are run in blocks of ten until the primary expectation is
    decided or the largest number of seeds is reached.

    Args:
        study: a study, or its name (settings as `name:data=PATH`).
        budget: "smoke" or "paper".
        seeds: largest number of seeds; None uses the study's own for the budget.
        jobs: number of parallel processes, 1 or 2, with one thread each. The figures do not depend on it.
        out: also write the verdict to this file.
        progress: show a progress bar on stderr if it is a terminal.
        folder: folder of finished runs, used to continue after an interruption.

    Returns:
        The verdict. It is written to the package's verdict files if it was computed at paper budget, is final (decided,
        or at the study's own largest number of seeds), and with the study's default settings.

    Raises:
        UnknownName: no such study or budget.
        BadSetting: seeds or jobs out of range.
        KeyboardInterrupt: the user stopped it; finished runs stay cached.
    """
    study = _named(study) if isinstance(study, str) else study
    most = len(study.seeds(budget, seeds))
    if jobs not in range(1, MOST_JOBS + 1):
        raise BadSetting(f"jobs must be 1 to {MOST_JOBS}, got {jobs!r}")
    started = time.monotonic()
    work = _Work(study, budget, jobs, progress, Path(folder))
    log = work.tune() if budget == "paper" else {}
    before = work.preconditions() if budget == "paper" else ()
    judged: tuple[Judged, ...] = ()
    count = 0
    if all(j.verdict == HOLDS for j in before):
        for count in looks(most) if budget == "paper" else (most,):
            judged = work.judged(study.seeds(budget, count), last=count == study.most_seeds)
            if overall(judged) in (HOLDS, FAILS) or _missing(judged):
                break
    command = command_of(study, budget, most, jobs)
    verdict = work.verdict(judged, before, log, study.seeds(budget, count) if count else (), command)
    verdict = replace(verdict, wall_seconds=time.monotonic() - started)
    own = _own_file(study, verdict)
    verdict = replace(verdict, history=history(own) if own else ())
    for path in filter(None, (out, own)):
        write(verdict, Path(path))
    return verdict


def _named(text: str) -> Study:
    return build("study", text)


def command_of(study: Study, budget: str, seeds: int, jobs: int = 1) -> str:
    """The exact command that repeats a run of the harness."""
    default = type(study)().settings()
    extra = ",".join(f"{k}={v}" for k, v in study.settings().items() if v != default[k] and k != "given")
    name = shlex.quote(f"{study.name}:{extra}" if extra else study.name)
    return f"homeostat study {name} --budget {budget} --seeds {seeds} --jobs {jobs}"


def _own_file(study: Study, verdict: Verdict) -> Path | None:
    """Path of the verdict file in the package, or None if this verdict must not be stored there."""
    decided = verdict.verdict in (HOLDS, FAILS, ABSENT) or _missing(verdict.expectations)
    final = decided or len(verdict.seeds) == study.most_seeds
    enough = verdict.budget == "paper" and final and (verdict.verdict == ABSENT or len(verdict.seeds) >= BLOCK)
    ours = type(study).__module__.startswith("homeostat.studies.")
    if not enough or not ours or study.settings() != type(study)().settings():
        return None
    return Path(str(files("homeostat.studies"))) / "verdicts" / f"{study.name}.json"


def _missing(judged: Sequence[Judged]) -> bool:
    """Whether a primary effect is missing under some seed; then more seeds decide nothing."""
    return any(j.role == "primary" and math.isnan(j.effect) for j in judged)


class _Work:
    """The runs of a study under one budget, and what follows from them.

    Args:
        study: with its default or the user's settings; `tune` replaces it by one with the chosen settings.
    """

    def __init__(self, study: Study, budget: str, jobs: int, progress: bool, folder: Path) -> None:
        self.study, self.budget, self.jobs, self.progress, self.folder = study, budget, jobs, progress, folder
        self.cells = Cells(study, budget, folder)
        self.used: dict[tuple[str, Cell], Finished] = {}

    def tune(self) -> dict[str, Any]:
        """Choose the settings that the study leaves open; returns the log."""
        tune = self.study.tune
        if tune is None:
            return {}
        log: dict[str, Any] = {}
        for arm, settings in tune.tried.items():
            scores: list[list[float]] = []
            for setting in settings:
                trial = replace(self.study, given=json.dumps({arm: setting}))
                work = _Work(trial, self.budget, self.jobs, self.progress, self.folder)
                rows = work.measures((arm,), development_seeds(tune.seeds))
                self.used |= work.used
                scores.append([number(row[arm], tune.by) for row in rows.values()])
            log[arm] = tune.chosen(arm, scores)
        self.study = replace(self.study, given=json.dumps({arm: row["chosen"] for arm, row in log.items()}))
        self.cells = Cells(self.study, self.budget, self.folder)
        return log

    def preconditions(self) -> tuple[Judged, ...]:
        """The preconditions, judged on development seeds."""
        seeds = development_seeds(self.study.development)
        return tuple(judge_precondition(p, self.measures(p.arms, seeds)) for p in self.study.preconditions)

    def judged(self, seeds: Sequence[int], last: bool) -> tuple[Judged, ...]:
        """All expectations by these seeds."""
        by_seed = self.measures(tuple(self.study.arms), seeds)
        primaries = max(1, sum(e.primary for e in self.study.expectations))
        return tuple(judge(e, by_seed, primaries, last) for e in self.study.expectations)

    def measures(self, arms: Sequence[str], seeds: Sequence[int]) -> dict[int, dict[str, Measures]]:
        """seed -> arm -> measures; unfinished runs are run first."""
        wanted = [(arm, seed) for seed in seeds for arm in arms]
        run_missing(self.study, self.budget, wanted, self.cells, self.jobs, self.progress)
        self.used |= {(self.study.given, cell): self.cells.finished(cell) for cell in wanted}
        return {seed: {arm: self.cells.finished((arm, seed)).measures for arm in arms} for seed in seeds}

    def verdict(
        self,
        judged: tuple[Judged, ...],
        before: tuple[Judged, ...],
        log: dict[str, Any],
        seeds: tuple[int, ...],
        command: str,
    ) -> Verdict:
        """The verdict of finished runs."""
        study = self.study
        by_seed = self.measures(tuple(study.arms), seeds)
        told = zip(judged, study.expectations, strict=True) if judged else ()
        absent = any(j.verdict != HOLDS for j in before)
        return Verdict(
            study=study.name,
            claim=study.claim,
            verdict=ABSENT if absent else overall(judged),
            expectations=tuple(with_robust(j, e.effect, by_seed) for j, e in told),
            arms={arm: _summary(says, [by_seed[s][arm] for s in seeds]) for arm, says in study.arms.items()},
            seeds=seeds,
            per_seed={str(seed): {arm: dict(m) for arm, m in row.items()} for seed, row in by_seed.items()},
            budget=self.budget,
            because=study.because,
            preconditions=before,
            development_seeds=development_seeds(study.development) if before else (),
            settings={**study.settings(), **study.sizes(self.budget)},
            changed=study.changed,
            tuning=study.tuning,
            tuning_log=log,
            versions=versions(),
            code=code_of(study),
            method_code=code_of(type(study)(), without=MACHINERY),
            command=command,
            date=datetime.now(UTC).date().isoformat(),
            run_seconds=sum(run.seconds for run in self.used.values()),
            processor_seconds=sum(run.processor_seconds for run in self.used.values()),
        )


def run_missing(study: Study, budget: str, wanted: list[Cell], cells: Cells, jobs: int, progress: bool) -> None:
    """Run every unfinished arm and seed, with an optional progress bar, and store each result at once."""
    missing = [cell for cell in wanted if cells.get(cell) is None]
    with _bar(study, len(wanted), len(wanted) - len(missing), progress) as advance:
        for cell, finished in _finish(study, budget, missing, jobs):
            cells.keep(cell, finished)
            advance(cell)


def _finish(study: Study, budget: str, missing: list[Cell], jobs: int) -> Iterator[tuple[Cell, Finished]]:
    together = _together(missing, study.seeds_at_once)
    if jobs == 1 or len(together) < 2:
        for arm, seeds in together:
            yield from _pooled((study, arm, seeds, budget))
        return
    pool = multiprocessing.get_context("spawn").Pool(jobs, initializer=_ignore_interrupts)
    # leaving the block, also by Ctrl-C, ends the workers; finished runs are already stored
    with pool:
        for finished in pool.imap_unordered(_pooled, [(study, *each, budget) for each in together]):
            yield from finished


def _together(missing: list[Cell], most: int) -> list[tuple[str, list[int]]]:
    """Arms, each with the seeds that are run together; seed by seed if they are run alone."""
    if most == 1:
        return [(arm, [seed]) for arm, seed in missing]
    by_arm: dict[str, list[int]] = {}
    for arm, seed in missing:
        by_arm.setdefault(arm, []).append(seed)
    return [(arm, seeds[at : at + most]) for arm, seeds in by_arm.items() for at in range(0, len(seeds), most)]


def _pooled(job: tuple[Study, str, list[int], str]) -> list[tuple[Cell, Finished]]:
    study, arm, seeds, budget = job
    return [((arm, seed), done) for seed, done in zip(seeds, run_cells(study, arm, seeds, budget), strict=True)]


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


def _summary(says: str, rows: list[Measures]) -> dict[str, Any]:
    """Mean and 95% interval of every scalar measure."""
    names = [name for name, value in rows[0].items() if not isinstance(value, list)] if rows else []
    columns: Mapping[str, list[float]] = {name: [number(row, name) for row in rows] for name in names}
    summary = {name: {"mean": sum(c) / len(c), "interval": list(interval(c))} for name, c in columns.items()}
    return {"what": says, "measures": summary}
