"""The state of a paper follows from registered components and from files that commands write, and from nothing else."""

import dataclasses
import json
from types import SimpleNamespace
from typing import ClassVar

import pytest

from homeostat.catalogue import entries, entry, evidence_of, notes_on, state, to_json, unknown_entries, verdict_of
from homeostat.catalogue import status as standing
from homeostat.catalogue.evidence import Evidence, digest, write_evidence
from homeostat.core import component as registry
from homeostat.core.closure import closure
from homeostat.core.component import Component
from homeostat.core.errors import BadInput
from homeostat.studies.papers.plasticity.continual_backprop import ContinualBackpropStudy

PAPER = "weighted-tallying-bandit"
FIELDS = {"components", "laws", "oracle", "study", "verdict", "notes"}


@pytest.fixture
def register(monkeypatch):
    """Registers throw-away components of a kind; the registry is as before afterwards."""
    fresh = {kind: dict(named) for kind, named in registry.REGISTRY.items()}
    monkeypatch.setattr(registry, "REGISTRY", fresh)

    def make(name: str, of_kind: str, ids: tuple[str, ...] = (PAPER,)) -> type[Component]:
        label = name

        class Made(Component):
            name: ClassVar[str] = label
            kind: ClassVar[str] = of_kind
            entries: ClassVar[tuple[str, ...]] = ids

        return Made

    return make


@pytest.fixture
def evidence(monkeypatch, tmp_path):
    """Points the state at an evidence folder of its own."""
    monkeypatch.setattr(standing, "evidence_of", lambda component: evidence_of(component, tmp_path))
    return lambda made, **laws: write_evidence(Evidence(made.name, made.kind, digest(made), **laws), tmp_path)


@pytest.fixture
def verdicts(monkeypatch, tmp_path):
    """Points the state at a folder of verdicts of its own."""
    monkeypatch.setattr(standing, "verdict_of", lambda study: verdict_of(study, tmp_path))
    return lambda study, verdict, **more: (tmp_path / f"{study}.json").write_text(
        json.dumps({"verdict": verdict, **more})
    )


def test_a_paper_nobody_implements_has_no_state(register):
    assert state(entry(PAPER)).to_json() == {
        "components": [],
        "laws": None,
        "oracle": False,
        "study": None,
        "verdict": None,
        "notes": [],
    }


def test_a_registered_component_shows_up_and_only_where_it_says(register):
    register("zeta-probe", "vital")
    register("alpha-cure", "treatment")
    assert state(entry(PAPER)).components == ("alpha-cure", "zeta-probe")
    assert state(entry(PAPER)).laws is None
    assert "alpha-cure" not in state(entry("central-flows")).components


@pytest.mark.parametrize(
    ("first", "second", "laws"),
    [
        ({"passed": ("finite",)}, {"passed": ("resume",)}, "passed"),
        ({"passed": ("finite",)}, {"passed": ("finite",), "declared": ("lifts",)}, "declared"),
        ({"passed": ("finite",), "failed": ("resume",)}, {"passed": ("finite",), "declared": ("lifts",)}, "failed"),
        ({"passed": ("finite",)}, {}, "passed"),
        ({}, {}, None),
    ],
)
def test_laws_are_as_good_as_the_worst_component(register, evidence, first, second, laws):
    evidence(register("one", "treatment"), **first)
    evidence(register("two", "vital"), **second)
    assert state(entry(PAPER)).laws == laws


def test_one_unchecked_component_leaves_the_laws_open(register, evidence):
    evidence(register("one", "treatment"), passed=("finite",))
    register("two", "vital")
    assert state(entry(PAPER)).laws is None


def test_evidence_of_another_source_does_not_count(register, tmp_path):
    made = register("one", "treatment")
    now = Evidence(made.name, made.kind, digest(made), passed=("finite",), oracles=("tests/x.py::test_x",))
    write_evidence(now, tmp_path)
    assert evidence_of(made, tmp_path) == now
    for other in ("", "0" * 32):
        write_evidence(dataclasses.replace(now, digest=other), tmp_path)
        assert evidence_of(made, tmp_path) is None


def test_oracle_means_every_formula_has_one(register, evidence):
    evidence(register("one", "treatment"), passed=("finite",), oracles=("tests/x.py::test_x",))
    assert state(entry(PAPER)).oracle
    register("a-stream", "stream")
    assert state(entry(PAPER)).oracle, "a stream restates no formula"
    evidence(register("two", "vital"), passed=("finite",))
    assert not state(entry(PAPER)).oracle


def test_a_stream_alone_has_no_oracle(register, evidence):
    evidence(register("a-stream", "stream"), passed=("resumable",), oracles=("tests/x.py::test_x",))
    assert not state(entry(PAPER)).oracle


def test_study_and_its_verdict(register, verdicts):
    register("a-study", "study")
    assert (state(entry(PAPER)).study, state(entry(PAPER)).verdict) == ("a-study", None)
    register("b-study", "study")
    verdicts("b-study", "does not hold", rule="present", method_code="another")
    assert state(entry(PAPER)).notes == (standing.OTHER_CODE,)
    assert (state(entry(PAPER)).study, state(entry(PAPER)).verdict) == ("b-study", "does not hold")
    assert state(entry(PAPER)).components == ()


def test_notes_tell_an_earlier_rule_and_other_code():
    study = ContinualBackpropStudy
    now = {"rule": "present", "method_code": standing.code_of(study(), without=standing.MACHINERY)}
    assert notes_on(study, now) == ()
    assert notes_on(study, {**now, "method_code": "0"}) == (standing.OTHER_CODE,)
    assert notes_on(study, {"code": standing.code_of(study())}) == (standing.EARLIER_RULE,)
    assert notes_on(study, {"code": "0"}) == (standing.EARLIER_RULE, standing.OTHER_CODE)


def test_the_fingerprint_of_the_method_covers_its_treatment_and_not_the_shell():
    study = ContinualBackpropStudy()
    files = {path.as_posix() for path in closure([type(study).__module__], without=standing.MACHINERY)}
    assert any(path.endswith("treatments/resets/continual_backprop.py") for path in files)
    assert any(path.endswith("studies/lab/training.py") for path in files)
    assert not any("/shell/" in path or "/core/" in path for path in files)


@pytest.mark.parametrize("words", ["no effect larger than 0.02", "not shown here"])
def test_the_other_verdicts_are_read(tmp_path, words):
    (tmp_path / "a.json").write_text(json.dumps({"verdict": words}))
    found = verdict_of("a", tmp_path)
    assert found is not None and found["verdict"] == words


def test_a_verdict_in_other_words_is_refused(tmp_path):
    (tmp_path / "odd.json").write_text(json.dumps({"verdict": "mostly holds"}))
    with pytest.raises(BadInput, match="mostly holds"):
        verdict_of("odd", tmp_path)
    assert verdict_of("absent", tmp_path) is None


def test_json_has_every_entry_with_its_state():
    rows = json.loads(json.dumps(to_json()))["entries"]
    assert [row["id"] for row in rows] == [e.id for e in entries()]
    for row in rows:
        assert {"id", "title", "family", "year", "arxiv", "claim", "mechanism", "summary"} | FIELDS <= row.keys()
        assert row["verdict"] is None or row["verdict"] in standing.VERDICTS or row["verdict"].startswith("no effect")
        assert row["laws"] in (None, "passed", "failed", "declared")
        assert isinstance(row["components"], list)
        assert isinstance(row["oracle"], bool)
    assert [row["id"] for row in to_json([entry(PAPER)])["entries"]] == [PAPER]


def test_the_stored_rows_carry_no_state():
    assert not FIELDS & {f.name for f in dataclasses.fields(entries()[0])}


def test_components_name_papers_that_exist(register):
    assert unknown_entries() == {}
    register("typo", "treatment", ("continual-backprob",))
    assert unknown_entries() == {"continual-backprob": ["typo"]}


def test_a_component_without_source_has_no_digest():
    assert digest(SimpleNamespace(__module__="no.such.module", kind="vital")) == ""  # type: ignore[arg-type]
