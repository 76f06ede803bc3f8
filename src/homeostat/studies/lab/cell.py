"""Runs one arm of a study under one seed, or under several at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from homeostat.studies.lab.expectation import Measure
from homeostat.studies.lab.study import Study

Cell = tuple[str, int]
"""An arm and a seed."""


@dataclass(frozen=True)
class Finished:
    """Result of one run: measures, wall time and processor time."""

    measures: dict[str, Measure]
    seconds: float
    processor_seconds: float


def run_cell(study: Study, cell: Cell, budget: str) -> Finished:
    """Run one arm under one seed in one thread; the caller's random state and thread count are restored."""
    arm, seed = cell
    threads = torch.get_num_threads()
    started, busy = time.monotonic(), time.process_time()
    try:
        torch.set_num_threads(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            measures = study.run(arm, seed, budget)
    finally:
        torch.set_num_threads(threads)
    times = time.monotonic() - started, time.process_time() - busy
    return Finished({name: _number(value) for name, value in measures.items()}, *times)


def run_cells(study: Study, arm: str, seeds: Sequence[int], budget: str) -> list[Finished]:
    """Run one arm under several seeds, together if the study can. The time is shared out equally."""
    if study.seeds_at_once == 1:
        return [run_cell(study, (arm, seed), budget) for seed in seeds]
    threads = torch.get_num_threads()
    started, busy = time.monotonic(), time.process_time()
    try:
        torch.set_num_threads(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds[0])
            rows = study.run_many(arm, seeds, budget)
    finally:
        torch.set_num_threads(threads)
    times = (time.monotonic() - started) / len(seeds), (time.process_time() - busy) / len(seeds)
    return [Finished({name: _number(value) for name, value in row.items()}, *times) for row in rows]


def _number(value: Any) -> Any:
    return [float(v) for v in value] if isinstance(value, (list, tuple)) else float(value)
