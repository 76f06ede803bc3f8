"""The stored corpus: nothing above information on a healthy run, and what each sick run must raise.

The runs were trained once (benchmarks/healthy_corpus.py); here their vitals are judged again.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

import pytest
from grids import part_of
from test_programs import PROGRAMS
from test_programs_architecture import NAMED as OF_LAYERS
from test_programs_batches import NAMED as OF_BATCHES
from test_programs_generative import NAMED as GENERATIVE
from test_programs_optimization import NAMED
from test_programs_outputs import NAMED as OF_OUTPUTS
from test_programs_policy import PROGRAMS as OF_POLICIES

from homeostat.core.component import components
from homeostat.diagnosis.replay import StoredRun, replay

FOLDER = Path(__file__).parents[2] / "benchmarks" / "healthy"


@cache
def stored(file: str) -> list[StoredRun]:
    rows = json.loads(gzip.decompress((FOLDER / f"{file}.json.gz").read_bytes()))
    return [StoredRun(**row) for row in rows]


@pytest.mark.parametrize("seed", part_of(range(6), 3))
def test_healthy_runs_raise_nothing_above_information(seed: int) -> None:
    """Every kind of run in every seed; four seeds of six are replayed by `make thorough` alone."""
    runs = [run for run in stored("healthy") if run.seed == seed]
    alarms = [
        (run.name, f.condition, f.severity, f.evidence["text"])
        for run in runs
        for f in replay(run).values()
        if f.severity != "info"
    ]
    assert len(runs) >= 40 and not alarms


def test_the_healthy_corpus_is_as_broad_as_it_says() -> None:
    names, seeds = {r.name for r in stored("healthy")}, {r.seed for r in stored("healthy")}
    assert len(names) >= 40 and len(seeds) >= 5
    assert all(sum(r.name == name for r in stored("healthy")) >= 5 for name in names)


@cache
def raised(seed: int) -> list[tuple[str, str, bool]]:
    """(run, expected condition, raised above information) of the sick runs of a seed."""
    found = []
    for run in (r for r in stored("sick") if r.seed == seed):
        findings = replay(run)
        found += [(run.name, c, c in findings and findings[c].severity != "info") for c in run.expected]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_sick_runs_raise_their_findings(seed: int) -> None:
    missed = [(name, condition) for name, condition, hit in raised(seed) if not hit]
    assert len(missed) <= 0.1 * len(raised(seed)), missed


def test_every_condition_is_raised_by_some_sick_run() -> None:
    hits = {condition for seed in range(3) for _, condition, hit in raised(seed) if hit}
    # The edge of stability is information by design, and tested on healthy runs below.
    policies = (cause for cause, _ in OF_POLICIES.values())
    tested = {
        *PROGRAMS,
        *NAMED,
        *OF_LAYERS,
        *OF_OUTPUTS,
        *OF_BATCHES,
        *GENERATIVE,
        *policies,
        "forgetting",
        "loss-spikes",
        "frozen-by-accident",
        "loss-scale-at-its-floor",
        "overfitting",
    }
    assert hits | tested == set(components("condition")) - {"edge-of-stability"}


def test_every_threshold_says_how_it_was_set() -> None:
    for condition in components("condition").values():
        assert all(len(knob.source) > 15 for knob in condition.knob_specs().values())


def test_full_batch_descent_at_its_edge_is_information() -> None:
    edge = [r for r in stored("healthy") if r.name == "full-batch-edge"]
    assert [replay(r)["edge-of-stability"].severity for r in edge] == ["info"] * len(edge)
    plain = [r for r in stored("healthy") if r.name == "full-batch"]
    assert not any("edge-of-stability" in replay(r) for r in plain)


def test_the_documentation_has_the_thresholds_of_the_code() -> None:
    text = (FOLDER.parents[1] / "docs" / "findings.md").read_text(encoding="utf-8")
    for name, condition in components("condition").items():
        for setting, knob in condition.knob_specs().items():
            row = f"| `{name}` | {setting} | {getattr(condition, setting):g} |"
            assert row in text and knob.source in text[text.index(row) :].partition("\n")[0]
