"""The status line on a terminal, the settings it runs under, and the finder that waits for an import."""

import importlib
import importlib.util
import io
import re
import sys

import pytest

from homeostat.core.errors import BadSetting, UnknownName
from homeostat.core.finding import Finding
from homeostat.shell.launch.import_hook import ImportHook
from homeostat.shell.launch.status_line import StatusLine
from homeostat.shell.run.settings import Settings


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and what a person would see on it."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """The screen after everything that was written: carriage returns and erased lines obeyed, colours dropped."""
        rows, column = [""], 0
        for letter in re.sub(r"\x1b\[[0-9;]*m", "", self.getvalue()).replace("\x1b[2K", "\0"):
            if letter == "\n":
                rows.append("")
            elif letter == "\0":
                rows[-1] = ""
            elif letter != "\r":
                rows[-1] = rows[-1][:column].ljust(column) + letter + rows[-1][column + 1 :]
            column = {"\n": 0, "\r": 0, "\0": column}.get(letter, column + 1)
        return rows


@pytest.fixture
def terminal(monkeypatch):
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def test_the_line_gives_way_to_what_the_script_prints(terminal):
    line = StatusLine(stream=terminal, per_second=1e9)
    line.open()
    print("first", file=terminal)
    line.update(step=1200, loss=0.25, worst=Finding("dormant-units", "warning", 3, ("fc1", "fc2", "fc3")))
    assert terminal.lines() == ["first", "homeostat  step 1,200  loss 0.25  dormant-units (fc1, fc2, ...)"]
    print("second", file=terminal)
    assert terminal.lines() == ["first", "second", ""]
    line.update(step=1300)
    assert terminal.lines()[-1] == "homeostat  step 1,300  loss 0.25"
    line.close()
    assert terminal.lines() == ["first", "second", ""]
    assert "write" not in vars(terminal)


def test_a_progress_bar_or_a_prompt_is_left_alone(terminal):
    line = StatusLine(stream=terminal, per_second=1e9)
    line.open()
    print("\rtraining 10%", end="", file=terminal)
    line.update(step=1)
    assert terminal.lines() == ["training 10%"]
    print(file=terminal)
    line.update(step=2)
    assert terminal.lines()[-1] == "homeostat  step 2"
    line.close()


def test_redraws_are_limited_and_long_lines_cut(terminal):
    line = StatusLine(stream=terminal, per_second=0.001)
    line.open()
    for step in range(100):
        line.update(step=step, worst=Finding("x" * 500, "info", 0))
    assert terminal.getvalue().count("step") == 1
    assert len(terminal.lines()[-1]) < 80
    line.close()


@pytest.mark.parametrize("quiet", [True, False])
def test_nothing_is_drawn_where_nobody_looks(terminal, quiet):
    stream = terminal if quiet else io.StringIO()
    line = StatusLine(quiet=quiet, stream=stream, per_second=1e9)
    line.open()
    line.update(step=1)
    line.print("said for good")
    line.close()
    assert stream.getvalue() == ("" if quiet else "said for good\n")


def test_settings_from_texts():
    made = Settings.parse(vitals="dormant-units, loss", treat=["redo:every=500", "auto"], budget="5%", every=10, seed=3)
    assert (made.vitals, made.auto, made.budget, made.every, made.seed) == (
        ("dormant-units", "loss"),
        True,
        0.05,
        10,
        3,
    )
    assert [t.name for t in made.treatments] == ["redo"]
    assert [v.name for v in made.selected_vitals()] == ["dormant-units", "loss"]
    assert made.to_json()["treatments"][0]["settings"]["every"] == 500
    assert {v.name for v in Settings(vitals="all").selected_vitals()} >= {v.name for v in Settings().selected_vitals()}


@pytest.mark.parametrize("budget", ["0", "-1%", "101%", "nan", "two", "%", ""])
def test_a_budget_is_a_share(budget):
    with pytest.raises(BadSetting, match="budget"):
        Settings.parse(budget=budget)


def test_controllers_need_a_vital_and_a_knob_that_exist():
    with pytest.raises(UnknownName, match="knob"):
        Settings.parse(control=["pi:vital=dormant-units,knob=l2-init.strength"])
    with pytest.raises(BadSetting, match="which vital"):
        Settings.parse(control=["pi:knob=lr"])
    assert Settings.parse(control=["pi:vital=dormant-units@fc1,knob=lr"]).controllers


def test_an_import_is_told_once_and_leaves_no_trace(tmp_path, monkeypatch):
    (tmp_path / "awaited_module.py").write_text("value = 1")
    monkeypatch.syspath_prepend(tmp_path)
    finders, told = list(sys.meta_path), []
    arrival = ImportHook("awaited_module", lambda: told.append(sys.modules["awaited_module"].value))
    arrival.await_import()
    assert importlib.util.find_spec("awaited_module") is not None  # a look-up is no import
    assert told == []
    module = importlib.import_module("awaited_module")
    assert told == [1] and sys.meta_path == finders
    assert "exec_module" not in vars(module.__spec__.loader)
    ImportHook("awaited_module", lambda: told.append(2)).await_import()
    assert told == [1, 2]
    del sys.modules["awaited_module"]


def test_an_import_that_fails_is_waited_for_again(tmp_path, monkeypatch):
    (tmp_path / "failing_module.py").write_text("raise ImportError('not today')")
    monkeypatch.syspath_prepend(tmp_path)
    told = []
    arrival = ImportHook("failing_module", lambda: told.append(1))
    arrival.await_import()
    with pytest.raises(ImportError, match="not today"):
        importlib.import_module("failing_module")
    (tmp_path / "failing_module.py").write_text("value = 'now it works'")
    importlib.invalidate_caches()
    assert importlib.import_module("failing_module").value
    assert told == [1]
    del sys.modules["failing_module"]
