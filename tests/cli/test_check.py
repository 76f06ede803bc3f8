"""`homeostat check`: components of anybody's, in modules, in files and by name; what is wrong with them is said."""

import json

import pytest
from typer.testing import CliRunner

from homeostat.cli import app
from homeostat.core.component import REGISTRY, discover

VITAL = '''
from dataclasses import dataclass
from homeostat.vitals import DormantUnits

@dataclass(frozen=True, kw_only=True)
class MyVital(DormantUnits):
    """The share of dormant units, told once more under a name of its own.

    >>> MyVital().name
    'my-vital'
    """
    FINISH

helper = 3
'''
KEPT = VITAL.replace("FINISH", "")
BROKEN = VITAL.replace("FINISH", "finish = lambda self, p: {k: v * 3 for k, v in DormantUnits.finish(self, p).items()}")


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """In an empty folder, with a registry that is left as it was."""
    monkeypatch.chdir(tmp_path)
    discover()
    kept = {kind: dict(names) for kind, names in REGISTRY.items()}
    yield tmp_path
    REGISTRY.clear()
    REGISTRY.update(kept)


def run(*args, code=0):
    result = CliRunner().invoke(app, ["check", *args])
    assert result.exit_code == code, result.output
    return result


def checked(*args, code=0):
    return json.loads(run(*args, "--json", code=code).stdout)["components"]


@pytest.mark.parametrize("target", ["mine.py", "mine.py:MyVital", "mine:MyVital", "mine"])
def test_a_component_that_is_not_installed_is_checked(tmp_path, monkeypatch, target):
    monkeypatch.delitem(__import__("sys").modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(KEPT)
    (result,) = checked(target)
    assert result["ok"]
    assert not result["failed"]
    assert set(result["skipped"]) == {"invariant: rotation"}
    assert result["reasons"]["invariant: rotation"]
    monkeypatch.delitem(__import__("sys").modules, "mine", raising=False)


def test_a_broken_law_is_told_with_what_it_demands(tmp_path):
    (tmp_path / "bad.py").write_text(BROKEN)
    said = " ".join(run("bad.py", code=1).stdout.split())
    assert "BROKEN bounded" in said
    assert "outside (0.0, 1.0)" in said
    assert "The law:" in said
    assert "1 law broken" in said
    (result,) = checked("bad.py", "--law", "bounded", code=1)
    assert (result["failed"], result["passed"]) == (["bounded"], [])


def test_several_and_settings_and_kinds():
    assert [r["name"] for r in checked("pi:kp=0.3", "dual-ascent", "--law", "bounded")] == ["pi", "dual-ascent"]
    controllers = checked("--all", "--kind", "controller", "--law", "pure")
    assert {"pi", "hysteresis"} <= {r["name"] for r in controllers}
    assert "settles" in run("hysteresis", "pi").stdout


@pytest.mark.parametrize(
    ("text", "target", "said"),
    [
        ("raise ValueError('boom')", "f.py", "cannot import 'f.py': ValueError: boom (line 1 of f.py)"),
        ("def f(:", "f.py", "cannot import 'f.py': SyntaxError"),
        ("import nothing_of_the_kind", "f.py", "no module named 'nothing_of_the_kind'"),
        ("raise SystemExit(0)", "f.py", "it ends the program when imported"),
        ("x = 1", "f.py", "defines no component"),
        ("x = 1", "f.py:x", "is of type int, not a component class"),
        (KEPT, "f.py:MyVitl", "did you mean 'MyVital'?"),
        (KEPT, "f.py:helper", "components in it: DormantUnits, MyVital"),
        (KEPT + "\nfrom homeostat.core.vital import Vital", "f.py:Vital", "is a contract"),
        (VITAL.replace("FINISH", "needed: int"), "f.py:MyVital", "needs arguments"),
        ("", "g.py", "there is no file 'g.py'"),
        ("", "redoo", "did you mean 'redo'?"),
        ("", "pi:kq=1", "did you mean 'kp'"),
        ("", "pi --law bouned", "did you mean 'bounded'"),
        ("", "--all --kind vitl", "did you mean 'vital'?"),
        ("", "pi --kind controller", "use --all"),
    ],
)
def test_what_cannot_be_checked_is_one_line_and_exit_code_2(tmp_path, text, target, said):
    (tmp_path / "f.py").write_text(text)
    result = run(*target.split(), code=2)
    assert said in result.stderr
    assert result.stderr.startswith("homeostat: ")
    assert result.stderr.count("\n") == 1
