"""`homeostat new` writes components that pass their laws as written, and overwrites nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from homeostat.cli import app
from homeostat.commands.new import AUTHORS
from homeostat.core.component import cites, components, kinds

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = [
    ("treatment", "weight-pull", "regularization"),
    ("treatment", "rank-collapse", "resets"),  # the name, and so the class, of a condition
    ("vital", "activation-size", "activations"),
    ("vital", "l1-size", "optimization"),
    ("condition", "growing-weights", "optimization"),
    ("objective", "dpo-likelihood", "preference"),
    ("study", "adaptive-rr-again", "plasticity"),
]
CHECK = """
import doctest, importlib, json, pytest, sys, torch
from homeostat.core.component import find
from homeostat.studies.lab.harness import run_study
from homeostat.testing import check_component

broken = {}
for kind, name, laws in json.loads(sys.argv[1]):
    component = find(kind, name)
    broken |= check_component(component, only=laws).failed
    module = importlib.import_module(component.__module__)
    if doctest.testmod(module, extraglobs={"torch": torch}).failed:
        broken[name] = "its example"
    if kind == "study":
        run_study(name, seeds=1, folder=sys.argv[2], progress=False)
if pytest.main(["-q", "-p", "no:cacheprovider", "tests"]):
    broken["tests"] = "fail"
print()
print(json.dumps(broken))
"""


def invoke(*args: str, code: int = 0):
    result = CliRunner().invoke(app, ["new", *args])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the package with one component of each template in it."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for folder in ("treatments", "vitals", "diagnosis", "objectives"):
        (root / "tests" / folder).mkdir(parents=True)
    (root / "tests" / "vitals" / "test_weight_pull.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for kind, name, family in WRITTEN:
            paper = ["--paper", "adaptive-rr"] if kind == "study" else []
            made = json.loads(invoke(kind, name, "--family", family, *paper, "--json").stdout)
            assert all((root / path).is_file() for path in made["written"]) and made["next"]
        yield root


def run(checkout: Path, *args: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    done = subprocess.run([sys.executable, *args], cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def broken(checkout: Path, laws: dict[str, list[str]]) -> dict[str, str]:
    """What is wrong with all that was written of some kinds, by some laws (none: all), its tests and examples."""
    asked = [(kind, name, laws[kind]) for kind, name, _ in WRITTEN if kind in laws]
    return json.loads(run(checkout, "-c", CHECK, json.dumps(asked), str(checkout / "runs")).splitlines()[-1])


def test_a_new_component_is_two_files(checkout):
    tests = {path.name for path in (checkout / "tests").rglob("*.py")}
    assert tests == {
        "test_weight_pull.py",  # there before, in another folder
        "test_weight_pull_treatment.py",
        "test_rank_collapse.py",
        "test_activation_size.py",
        "test_l1_size.py",
        "test_growing_weights.py",
        "test_dpo_likelihood.py",
    }
    added = {p.name for p in (checkout / "src").rglob("*.py")} - {p.name for p in (ROOT / "src").rglob("*.py")}
    assert len(added) == len(WRITTEN)


def test_it_keeps_its_laws_and_passes_its_test_as_written(checkout):
    every: dict[str, list[str]] = {kind: [] for kind, _, _ in WRITTEN}
    assert broken(checkout, {**every, "treatment": ["cites a source", "has an example", "pure", "state"]}) == {}


@pytest.mark.slow
def test_a_new_treatment_keeps_all_laws_as_written(checkout):
    assert broken(checkout, {"treatment": []}) == {}


def test_it_is_in_the_style_of_the_house(checkout):
    for command in (["check"], ["format", "--check"]):
        run(checkout, "-m", "ruff", *command, "--no-cache", "src", "tests")


def test_it_cites_the_entry_of_the_catalogue(checkout):
    (path,) = checkout.rglob("adaptive_rr_again.py")
    assert 'Cite.of("adaptive-rr")' in path.read_text("utf-8")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("treatment", "redo"), "there is already a treatment 'redo' in homeostat.treatments.resets.redo"),
        (("treatment", "Redo 2"), "not a name"),
        (("vital", "anything", "--family", "activation"), "choose one of activations, continual, dynamics"),
        (("vital", "anything", "--paper", "nothing-like-it-at-all"), "unknown catalogue entry"),
        (("treatment", "weight-pull", "--family", "regularization"), "exists already"),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_is_changed(checkout, args, said):
    before = {path: path.stat().st_mtime_ns for path in checkout.rglob("*.py")}
    assert said in invoke(*args, code=2).output.replace("\n", " ")
    assert {path: path.stat().st_mtime_ns for path in checkout.rglob("*.py")} == before


def test_outside_of_a_checkout_it_says_where_to_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "not inside a checkout" in invoke("vital", "anything", code=2).output


def test_no_component_keeps_the_written_placeholder():
    ours = [c for kind in kinds() for c in components(kind).values()]
    assert [c.name for c in ours if any(cite.authors == AUTHORS for cite in cites(c))] == []
