"""What a result depends on: an edit counts where it can reach, and nowhere else."""

import ast
from pathlib import Path

import pytest

import homeostat
from homeostat.catalogue.status import RUNS_CELLS
from homeostat.core.closure import closure, digest
from homeostat.core.component import components, find

SRC = Path(homeostat.__file__).parent
STUDIES = {name: c.__module__ for name, c in components("study").items() if c.__module__.startswith("homeostat.")}


def depends(start: list[str | Path], place: str, names: tuple[str, ...] = ()) -> bool:
    """Whether an edit of a file of the package changes the digest."""
    path = SRC / place
    edits = {path: path.read_text("utf-8") + "\nEDITED = 1\n"}
    return digest(closure(start, names)) != digest(closure(start, names, edits), edits)


def of_study(name: str) -> list[str | Path]:
    return [STUDIES[name], RUNS_CELLS]


@pytest.mark.parametrize("name", STUDIES)
def test_no_study_depends_on_what_only_shows_results(name):
    found = {path.relative_to(SRC).parts[0] for path in closure(of_study(name))}
    assert not found & {"report", "commands", "cli.py", "demo", "catalogue", "testing"}
    assert "harness.py" not in {path.name for path in closure(of_study(name))}


def test_an_edit_of_the_report_costs_no_run():
    assert not any(depends(of_study(name), "report/page.py") for name in STUDIES)


def test_an_edit_of_what_a_study_uses_costs_its_runs():
    study = of_study("plasticity-probe")
    assert depends(study, "vitals/dynamics/curvature.py"), "a function imported from `homeostat.vitals`"
    assert depends(study, "treatments/resets/shrink_and_perturb.py"), "a class imported from `homeostat.treatments`"
    assert depends(study, "shell/edits/apply.py"), "attach, reached through `import homeostat`"
    assert (
        depends(study, "streams/data.py") and depends(study, "core/random.py") and depends(study, "studies/lab/cell.py")
    )
    assert depends(of_study("stability-gap"), "vitals/continual/past_tasks.py"), 'a vital named in `vitals="..."`'


def test_an_edit_of_what_a_study_does_not_use_costs_nothing():
    study = of_study("plasticity-probe")
    assert not depends(study, "treatments/resets/redo.py"), "named by the remedies of a finding, but not by the study"
    assert not depends(study, "vitals/optimization/gradients.py"), "offered by `homeostat.vitals` too"
    assert not depends(study, "vitals/__init__.py")
    assert not depends(study, "studies/papers/plasticity/granet.py")


def test_names_of_components_count_wherever_they_are_written(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "import homeostat\n\ndef go(model, optimizer):\n    homeostat.attach(model, optimizer, treatments=X)\n"
    )
    redo, start = "treatments/resets/redo.py", [script]
    assert not depends(start, redo)
    assert depends(start, redo, names=("redo:every=5+l2-init",))
    script.with_name("other.py").write_text('X = ["redo:every=500"]\n')
    edits = {script: "from other import X\n" + script.read_text()}
    assert SRC / redo in closure(start, edits=edits), "a neighbour of a module outside the package"
    assert SRC / redo in closure(start, edits={script: 'X = ["auto"]'}), "whatever the closed loop may try"
    default = closure(start, edits={script: 'vitals = "default"'})
    assert SRC / "vitals/optimization/gradients.py" in default


def test_a_citation_is_no_use_of_the_component_with_the_name_of_the_paper():
    assert SRC / "treatments/sparsity/granet.py" not in closure(["homeostat.vitals.activations.sparsity"])


def test_data_beside_a_module_belongs_to_it():
    assert SRC / "diagnosis/thresholds.json" in closure(["homeostat.diagnosis.thresholds"])


CODE = '''
"""What it is."""
import math


class Thing:
    """Says what it is, at some length, so that the law is content with it. >>> 1"""

    tuning = "nothing"

    def area(self, r: float) -> float:
        return math.pi * r**2
'''


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("What it is.", "What it is, in better words.", True),
        ("at some length", "at some more length", True),
        ("import math\n", "import math  # for pi\n\n", True),
        ("math.pi * r**2", "(math.pi\n            * r ** 2)", True),
        ('"nothing"', '"the rate, on seed 1000"', True),
        ("r**2", "r**3", False),
        ("math.pi", "math.tau", False),
        (">>> 1", "", False),
    ],
)
def test_the_digest_is_of_the_code(tmp_path, before, after, same):
    path = tmp_path / "thing.py"
    path.write_text(CODE)
    assert CODE.count(before) == 1
    assert (digest([path]) == digest([path], {path: CODE.replace(before, after)})) == same


def test_a_module_without_source_is_refused():
    with pytest.raises(ImportError, match=r"no\.such\.module"):
        closure(["no.such.module"])


def test_packages_only_hand_on_names():
    """The rule rests on it: importing from a package runs its `__init__`, which must not change what others compute."""
    handing_on = (ast.Import, ast.ImportFrom, ast.Expr)
    doing = {
        path.relative_to(SRC).as_posix()
        for path in SRC.rglob("__init__.py")
        for s in ast.parse(path.read_text("utf-8")).body
        if not isinstance(s, handing_on) and not ast.unparse(s).startswith("__all__ ")
    }
    assert doing <= {"__init__.py", "diagnosis/conditions/__init__.py"}, "loaded lazily; imports its modules in a loop"


def test_every_component_depends_on_its_own_module():
    redo = find("treatment", "redo")
    assert depends([redo.__module__], "treatments/resets/redo.py")
