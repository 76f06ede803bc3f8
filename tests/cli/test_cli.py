"""The command line: help with examples that parse, errors in one line, JSON as documented."""

import json
import re
import shlex

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from homeostat import __version__
from homeostat.cli import app
from homeostat.commands.run import Ready
from homeostat.core.finding import Finding
from homeostat.record import RunRecord
from homeostat.treatments import ReDo

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


def invoke(*args: str, code: int = 0):
    result = CliRunner().invoke(app, args)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def invoke_json(*args: str, code: int = 0):
    return json.loads(invoke(*args, "--json", code=code).stdout)


@pytest.fixture
def record(tmp_path):
    made = RunRecord.create(tmp_path, script="train.py", seed=0)
    made.add_vitals([(10, "dormant-units", "fc1", 0.5)])
    made.set_findings(10, [Finding("dormant-units", "warning", 10, ("fc1",), {"text": "half are dormant"})])
    made.progress(10, 1.0, 0.01)
    made.close()
    return made


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_that_parse(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "Examples" in invoke(name, "--help").stdout
    examples = re.findall(r"^homeostat (.+)$", COMMANDS[name].epilog, re.MULTILINE)
    assert examples
    for example in examples:
        command, *args = shlex.split(example)
        assert command == name
        COMMANDS[name].make_context(name, list(args))  # raises on an unknown option or a missing argument


def test_every_command_offers_json():
    for command in COMMANDS.values():
        assert any("--json" in parameter.opts for parameter in command.params), command.name


def test_options_end_at_the_script_or_module(tmp_path):
    def program(*args: str):
        return COMMANDS["run"].make_context("run", list(args)).params["program"]

    assert program("--treat", "redo", "a.py", "--treat", "x") == ["a.py", "--treat", "x"]
    assert program("--treat", "redo", "-m", "a.b", "--json", "f") == ["-m", "a.b", "--json", "f"]
    assert program("-q", "-ma.b", "-m") == ["-ma.b", "-m"]
    assert program("--record", "-m", "a.py", "-m") == ["a.py", "-m"]
    assert program("--record=r", "--dry-run", "--", "a.py", "--", "-q") == ["a.py", "--", "-q"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("run", "--treat", "continual-bakprop", "train.py"), "did you mean 'continual-backprop'"),
        (("run", "--treat", "redo:treshold=1", "train.py"), "did you mean"),
        (("run", "--treat", "continual-backprop:replacement_rate=7", "train.py"), "must be a number in"),
        (("run", "--treat", "redo", "--treat", "redo", "train.py"), "named twice"),
        (("run", "--vitals", "dormant-unit", "train.py"), "did you mean 'dormant-units'"),
        (("run", "--every", "0", "train.py"), "at least 1"),
        (("run", "--control", "pi:vital=dormant-units,knob=redo.x", "train.py"), "unknown knob"),
        (("findings", "nothing"), "homeostat run SCRIPT"),
        (("catalogue", "no-such-paper-at-all"), "unknown"),
        (("catalogue", "--family", "plasticty"), "unknown family"),
        (("study", "continual-backprob"), "did you mean 'continual-backprop'"),
        (("check",), "MODULE:NAME"),
        (("check", "homeostat.vitals:Nothing"), "unknown name in homeostat.vitals"),
        (("check", "no_such_module:X"), "cannot import"),
        (("list", "treatmint"), "did you mean 'treatment'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(args, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("raise SystemExit('must not start')")
    result = invoke(*args, code=2)
    assert said in result.stderr
    assert result.stderr.startswith("homeostat: ") and result.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.py"]


def test_a_checked_run_starts_only_outside_of_the_parser(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("raise SystemExit('must not start')")
    with pytest.raises(Ready):
        get_command(app)(["run", "train.py"], standalone_mode=False)


def test_runs_findings_and_report_agree(record, tmp_path):
    folder = ("--record", str(tmp_path))
    (row,) = invoke_json("runs", *folder)["runs"]
    assert (row["run"], row["script"], row["steps"], row["status"]) == (record.run, "train.py", 10, "finished")
    assert (
        record.run[:15] in invoke("runs", *folder).stdout.replace("\n", "") or "train" in invoke("runs", *folder).stdout
    )
    found = invoke_json("findings", "last", *folder)
    assert [f["condition"] for f in found["findings"]] == ["dormant-units"]
    assert "half are dormant" in invoke("findings", record.run[:15], *folder).stdout
    assert invoke_json("report", "last", *folder)["findings"] == found["findings"]
    page = tmp_path / "page.html"
    assert invoke("report", "last", "--out", str(page), *folder).stdout == f"{page}\n"
    assert "half are dormant" in page.read_text()


def test_catalogue_json_has_the_documented_keys():
    entries = invoke_json("catalogue")["entries"]
    assert len(entries) == 284
    keys = {"id", "title", "family", "components", "laws", "oracle", "study", "verdict"}
    assert all(keys <= set(entry) for entry in entries)
    assert {entry["verdict"] for entry in entries} <= {None, "holds", "does not hold", "inconclusive", "not shown here"}
    one = entries[0]
    assert invoke_json("catalogue", one["id"])["entries"] == [one]
    assert one["title"] in invoke("catalogue", one["id"]).stdout.replace("\n", " ")
    searched = invoke_json("catalogue", "--search", "dormant neurons")["entries"]
    assert 0 < len(searched) < 284


def test_check_json_has_the_documented_keys():
    (result,) = invoke_json("check", "homeostat.streams.slow_regression:SlowlyChangingRegression")["components"]
    assert {"name", "passed", "failed", "declared"} <= set(result)
    assert result["passed"] and not result["failed"]


def test_check_fails_with_exit_code_1(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_stream.py").write_text(
        "from dataclasses import dataclass\n"
        "from homeostat.streams.slow_regression import SlowlyChangingRegression\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Declared(SlowlyChangingRegression, abstract=True):\n"
        "    declared = {'no such law': 'so this must fail'}\n"
    )
    (result,) = invoke_json("check", "broken_stream:Declared", code=1)["components"]
    assert "no such law" in result["failed"]


def test_list_and_version():
    named = {c["name"]: c["settings"] for c in invoke_json("list", "treatments")["components"]}
    assert named.keys() >= {"continual-backprop", "redo"} and named["redo"] == ReDo().settings()
    assert "continual-backprop" in invoke("list", "treatment").stdout
    needs = {c["name"]: c["needs"] for c in invoke_json("list", "treatments")["components"]}
    assert needs["l2-init"] == [] and needs["redo"] == ["unit groups"] and needs["fire"] == ["run.boundary()"]
    assert needs["adab2n"] == ["run.batch(...)", "run.loss(...)", "batch normalisation"]
    assert invoke_json("version") == {"version": __version__}
    assert {s["id"] for s in invoke_json("study")["studies"]} >= {"continual-backprop"}


def test_doctor_sees_a_training_run():
    found = invoke_json("doctor")
    assert found["well"]
    states = {check["what"]: check["state"] for check in found["checks"]}
    assert all(states[f"self-test: {what}"] == "ok" for what in ("steps", "layers", "losses", "hooks removed"))
