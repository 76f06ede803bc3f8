"""Evidence is of the present code, and so are the pages made from it. It depends on what its laws and oracles run."""

import importlib
from pathlib import Path

import pytest

import homeostat
from homeostat.catalogue import evidence_of
from homeostat.catalogue.evidence import digest, evidence_folder, oracle_digest
from homeostat.core.component import find
from homeostat.testing.check import laws_of_kind

SCRIPT = importlib.import_module("evidence")
COMPONENTS = SCRIPT.ours()
SRC = Path(homeostat.__file__).parent
TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def oracles():
    return SCRIPT.oracles()


@pytest.mark.parametrize("key", COMPONENTS)
def test_evidence_is_current(key, oracles):
    found, tests = evidence_of(COMPONENTS[key]), oracles.get(COMPONENTS[key].name, [])
    assert found is not None, "no evidence for this code: run `make evidence`"
    assert not found.failed
    assert list(found.oracles) == tests, "other tests are marked as oracles: run `make evidence`"
    assert found.oracle_digest == SCRIPT.oracles_digest(COMPONENTS[key], tests), "oracles changed: run `make evidence`"
    known = {*found.passed, *found.declared, *found.skipped}
    assert known == set(laws_of_kind(found.kind)), "laws changed: run `make evidence`"


def test_no_evidence_is_left_of_components_that_are_gone():
    stored = {path.name.removesuffix(".json") for path in evidence_folder().iterdir() if path.name.endswith(".json")}
    assert stored == set(COMPONENTS)


def test_oracle_marks_name_components(oracles):
    assert set(oracles) <= {c.name for c in COMPONENTS.values()}


@pytest.mark.parametrize("name", ["components", "laws"])
def test_pages_are_current(name):
    page = importlib.import_module(name)
    assert page.PAGE.read_text("utf-8") == page.page(), f"docs/{name}.md is stale: run `make evidence`"


def test_oracle_marks_are_read_from_test_files(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(
        '@pytest.mark.slow\n@pytest.mark.oracle("alpha", "beta")\ndef test_a(): ...\n\ndef test_b(): ...\n'
    )
    read = SCRIPT.oracles(tmp_path / "tests")
    assert read == {"alpha": ["tests/test_it.py::test_a"], "beta": ["tests/test_it.py::test_a"]}


def edited(place: str, root: Path = SRC) -> dict[Path, str]:
    return {root / place: (root / place).read_text("utf-8") + "\nEDITED = 1\n"}


@pytest.mark.parametrize(
    ("place", "voided", "kept"),
    [
        ("vitals/tensors.py", ["vital.dormant-units"], ["stream.label-swaps", "treatment.redo"]),
        ("vitals/activations/rank.py", ["vital.srank"], ["vital.dormant-units", "condition.rank-collapse"]),
        ("streams/tasks.py", ["stream.permuted-labels"], ["vital.srank", "objective.dpo-shift"]),
        ("treatments/resets/unit_resets.py", ["treatment.redo"], ["treatment.l2-init"]),
        ("diagnosis/condition.py", ["condition.rank-collapse"], ["treatment.redo", "vital.loss"]),
        ("shell/edits/apply.py", ["treatment.redo"], ["vital.loss", "condition.non-finite", "curve.power-law"]),
        ("testing/vital_laws.py", ["vital.loss"], ["treatment.redo", "stream.label-swaps"]),
        ("core/component.py", list(COMPONENTS), []),
        ("report/page.py", [], list(COMPONENTS)),
        ("record/writer.py", [], list(COMPONENTS)),
        ("commands/run.py", [], list(COMPONENTS)),
    ],
)
def test_an_edit_voids_the_evidence_of_what_it_can_reach(place, voided, kept):
    edits = edited(place)
    changed = {key: digest(COMPONENTS[key], edits) != digest(COMPONENTS[key]) for key in (*voided, *kept)}
    assert changed == dict.fromkeys(voided, True) | dict.fromkeys(kept, False)


def test_an_oracle_depends_on_its_file_and_on_what_that_imports(oracles):
    srank = find("vital", "srank")
    files = [TESTS.parent / test.partition("::")[0] for test in oracles["srank"]]
    before = oracle_digest(srank, files)
    assert before
    assert oracle_digest(srank, files, edited("vitals/test_rank.py", TESTS)) != before
    assert oracle_digest(srank, files, edited("testing/inputs.py")) != before
    assert oracle_digest(srank, files, edited("vitals/test_units.py", TESTS)) == before
    assert oracle_digest(srank, files, edited("shell/attach.py")) == before


def test_words_void_nothing():
    path = SRC / "vitals" / "activations" / "rank.py"
    text = path.read_text("utf-8")
    srank = find("vital", "srank")
    assert digest(srank, {path: text + "\n# A comment.\n"}) == digest(srank)
