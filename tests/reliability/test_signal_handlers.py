"""What a signal handler of the script raises reaches the script, wherever in our code it was raised."""

import ast
import os
import signal
import sqlite3
from pathlib import Path

import pytest
import torch
from torch import nn

import homeostat
from homeostat.core.signals import pass_on, suppressed
from homeostat.record import RunRecord, open_record
from homeostat.shell.hooks.torch_internals import saved

SRC = Path(homeostat.__file__).parent
ROOMS = [*(SRC / "shell").rglob("*.py"), *(SRC / "record").rglob("*.py"), SRC / "core" / "atomic_file.py"]
OWN = {
    "shell/run/atexit.py": 1,  # the script is over
    "shell/launch/runner.py": 1,  # before the script and after it
    "shell/run/failures.py": 1,  # a warning that was made an error
}
"""Clauses that may keep an error of any kind, by file."""
OTHER = {"ImportError", "metadata.PackageNotFoundError", "SystemExit"}
"""Kinds that no timeout has."""


def keeping(source: str) -> list[int]:
    """Lines of the clauses that may keep an error of the script's signal handlers."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) not in OTHER):
            calls = {ast.unparse(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)}
            again = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            found += [node.lineno] * (not again and "pass_on" not in calls)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("suppress", "contextlib.suppress"):
            found.append(node.lineno)
    return found


def test_every_clause_that_catches_passes_errors_of_handlers_on():
    found = {path.relative_to(SRC).as_posix(): keeping(path.read_text("utf-8")) for path in ROOMS}
    assert {name: len(lines) for name, lines in found.items() if lines} == OWN, found


@pytest.mark.parametrize(
    "source",
    ["try: x\nexcept OSError: pass", "try: x\nexcept: y", "with suppress(OSError): x",
     "try: x\nexcept OSError as e:\n  raise ValueError from e"],
)  # fmt: skip
def test_the_search_sees(source):
    assert keeping(source)
    assert not keeping("try: x\nexcept OSError as e:\n  pass_on(e)") and not keeping("try: x\nexcept OSError:\n  raise")


class Timeout(TimeoutError, RuntimeError, ValueError):
    """Of every kind that our code catches."""


def alarm(number, frame):
    raise Timeout("out of time")


@pytest.fixture
def fires(monkeypatch):
    """A function of (object, name): a signal arrives at its next call, once."""
    before = signal.signal(signal.SIGUSR1, alarm)

    def at(owner, name):
        original, left = getattr(owner, name), [1]

        def interrupted(*args, **kwargs):
            if left and left.pop():
                os.kill(os.getpid(), signal.SIGUSR1)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, interrupted)

    yield at
    signal.signal(signal.SIGUSR1, before)


def trained(model, optimizer, steps=1):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()


def test_a_checkpoint_that_is_being_written(fires, tmp_path):
    model = nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters())
    options = homeostat.CheckpointOptions(save=tmp_path / "c.safetensors", every=1)
    with homeostat.attach(model, optimizer, checkpoint=options):
        trained(model, optimizer)
        fires(os, "replace")
        with pytest.raises(Timeout):
            trained(model, optimizer)
        trained(model, optimizer, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_state_that_is_being_loaded(fires, tmp_path):
    model = nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters())
    with homeostat.attach(model, optimizer) as run:
        trained(model, optimizer)
        run.save(tmp_path / "c.safetensors")
    fires(torch.optim.Adam, "load_state_dict")
    options = homeostat.CheckpointOptions(resume=tmp_path / "c.safetensors")
    with pytest.raises(Timeout):
        homeostat.attach(model, optimizer, checkpoint=options)


class Interrupted(sqlite3.Connection):
    """Gets a signal at one statement, before or after it."""

    at: tuple[str, bool] = ("", False)

    def execute(self, sql, *args):
        word, after = self.at
        hit = bool(word) and sql.startswith(word)
        if hit:
            self.at = ("", False)
        if hit and not after:
            os.kill(os.getpid(), signal.SIGUSR1)
        done = super().execute(sql, *args)
        if hit and after:
            os.kill(os.getpid(), signal.SIGUSR1)
        return done


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("word", ["BEGIN", "UPDATE", "COMMIT"])
def test_a_record_that_is_being_written_loses_and_doubles_nothing(word, after, fires, tmp_path, monkeypatch):
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, factory=Interrupted, **k))
    record = RunRecord.create(tmp_path, script="a.py")
    record.add_vitals([(step, "loss", "network", 1.0) for step in range(1, 4)])
    record._db.at = (word, after)
    with pytest.raises(Timeout):
        record.flush()
    record.add_vitals([(4, "loss", "network", 1.0)])
    record.close()
    with open_record(record.path) as reader:
        assert reader.series("loss", "network") == [(step, 1.0) for step in range(1, 5)]


def test_an_error_that_came_from_a_handler_is_found_and_one_of_the_script_before_is_not(fires):
    class Node:
        @property
        def _saved_x(self):
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(Timeout):
        saved(Node(), "x")
    with pytest.raises(Timeout), suppressed(KeyError):
        try:
            alarm(0, None)
        except Timeout as error:
            raise KeyError from error
    try:
        alarm(0, None)
    except Timeout:
        with suppressed(KeyError):
            {}["of our own, while the script deals with its timeout"]
        pass_on(ValueError())
