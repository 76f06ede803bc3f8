"""Evidence files and the page of components are as the commands that write them would write them now."""

import importlib
from pathlib import Path

import pytest

from homeostat.catalogue import evidence_of
from homeostat.catalogue.evidence import evidence_folder
from homeostat.core.component import components, kinds
from homeostat.testing.check import laws_of_kind

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = {
    f"{kind}.{name}": c
    for kind in kinds()
    for name, c in components(kind).items()
    if kind != "study" and c.__module__.startswith("homeostat.")
}


@pytest.fixture(scope="module")
def oracles():
    return importlib.import_module("evidence").oracles()


@pytest.mark.parametrize("key", COMPONENTS)
def test_evidence_is_current(key, oracles):
    found = evidence_of(COMPONENTS[key])
    assert found is not None, "no evidence for this source: run `make evidence`"
    assert list(found.oracles) == oracles.get(found.component, []), "oracle tests changed: run `make evidence`"
    assert not found.failed


def test_no_evidence_is_left_of_components_that_are_gone():
    stored = {path.name.removesuffix(".json") for path in evidence_folder().iterdir() if path.name.endswith(".json")}
    assert stored == set(COMPONENTS)


def test_oracle_marks_name_components(oracles):
    assert set(oracles) <= {c.name for c in COMPONENTS.values()}


def test_page_of_components_is_current():
    page = importlib.import_module("components")
    assert page.PAGE.read_text("utf-8") == page.page(), "docs/components.md is stale: run `make evidence`"


def test_page_of_laws_is_current():
    page = importlib.import_module("laws")
    assert page.PAGE.read_text("utf-8") == page.page(), "docs/laws.md is stale: run `make evidence`"


def test_evidence_and_page_of_laws_know_every_law():
    for component in COMPONENTS.values():
        found = evidence_of(component)
        known = {*found.passed, *found.declared, *found.skipped}
        assert known == set(laws_of_kind(component.kind)), f"laws changed for {found.component}: run `make evidence`"


def test_oracle_marks_are_read_from_test_files(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(
        '@pytest.mark.slow\n@pytest.mark.oracle("alpha", "beta")\ndef test_a(): ...\n\ndef test_b(): ...\n'
    )
    read = importlib.import_module("evidence").oracles(tmp_path / "tests")
    assert read == {"alpha": ["tests/test_it.py::test_a"], "beta": ["tests/test_it.py::test_a"]}
