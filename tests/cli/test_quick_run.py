"""`homeostat run` is parsed without the full parser where that gives the same."""

import shlex
import subprocess
import sys

import pytest

from homeostat import cli
from homeostat.commands import quick_run
from homeostat.commands.parser import app
from homeostat.commands.run import Ready

LINES = [
    "train.py",
    "train.py --quiet -m x --every 3",
    "-q --every 3 --seed 7 --record there --json out.json train.py --lr 0.1",
    "--treat redo:every=500 --treat auto --control pi:vital=a,knob=b -m package.train --seed 1",
    "--no-metrics --dry-run --vitals all --budget 0.01 --fail-on critical --quiet train.py",
]
LEFT = [
    *("", "--help", "--every=3 train.py", "--every x train.py", "--fail-on never train.py", "-- train.py"),
    *("--nothing train.py", "--record --quiet train.py", "--seed -1 train.py", "-qm package"),
]


@pytest.mark.parametrize("line", LINES)
def test_it_gives_what_the_full_parser_gives(line, monkeypatch):
    from typer.main import get_command

    seen = []
    monkeypatch.setattr("homeostat.commands.run.ready", lambda program, options: seen.append((program, options)))
    with pytest.raises(Ready):
        get_command(app)(["run", *shlex.split(line)], prog_name="homeostat")
    (program, options), given = seen[0], quick_run.quick_arguments(shlex.split(line))
    lists, plain = ("treat", "control"), (bool, int, type(None))
    options = {k: tuple(v) if k in lists else v if isinstance(v, plain) else str(v) for k, v in options.items()}
    assert given == (program, options)


@pytest.mark.parametrize("line", LEFT)
def test_what_it_does_not_know_is_left_to_the_full_parser(line):
    assert quick_run.quick_arguments(shlex.split(line)) is None


def test_a_run_imports_neither_the_parser_nor_the_terminal_library(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import sys, torch; print({'typer', 'pydantic', 'rich'} & set(sys.modules))\n")
    command = [
        sys.executable,
        "-c",
        "from homeostat.cli import main; main()",
        "run",
        "-q",
        "--record",
        str(tmp_path),
        str(script),
    ]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"


def test_errors_are_those_of_the_full_parser(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["homeostat", "run", "there-is-none.py"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "there is no script" in capsys.readouterr().err
