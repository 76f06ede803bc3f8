"""Numbers that the script gives to its logger: what is read, and that the logger notices nothing."""

from __future__ import annotations

import inspect
import pickle
import sys
import threading
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import homeostat
from homeostat.shell.hooks.logger_hooks import FUNCTIONS, LOGGER_HOOKS, MOST_NAMES, LoggerFunction, LoggerHooks
from homeostat.shell.options import MeasureOptions

SOURCE = '''
class Tracker:
    def __init__(self):
        self.kept = []

    def log(self, data, step=None):
        """Documented."""
        log(data)
        self.kept.append((data, step))
        if "fail" in data:
            raise KeyError("fail")
        return self


def log(data):
    return list(data)
'''


def _read(args, kwargs):
    return args[0].items()


FOUND = (
    LoggerFunction("some_tracker", "Tracker.log", lambda args, kwargs: (kwargs.get("data") or args[1]).items()),
    LoggerFunction("some_tracker", "log", _read),
)


@pytest.fixture
def tracker(monkeypatch):
    """A logger that is written for the test, imported as the script would."""
    module = ModuleType("some_tracker")
    exec(SOURCE, module.__dict__)
    monkeypatch.setitem(sys.modules, "some_tracker", module)
    return module


def test_values_of_every_common_type_are_read_once_and_the_rest_is_left(tracker):
    hooks, heard = LoggerHooks(FOUND), []
    hooks.subscribe(lambda name, value: heard.append((name, value)))
    given = {
        "int": 3,
        "float": 0.5,
        "numpy": np.float32(0.25),
        "array": np.ones(1),
        "tensor": torch.tensor(2.0, requires_grad=True),
        "large": 10**400,
        "flag": True,
        "text": "0.5",
        "many": torch.ones(2),
        "meta": torch.ones((), device="meta"),
        "complex": torch.ones((), dtype=torch.complex64),
        "none": None,
        7: 1.0,
    }
    tracker.Tracker().log(given)
    expected = {"int": 3.0, "float": 0.5, "numpy": 0.25, "array": 1.0, "tensor": 2.0, "large": float("inf")}
    assert dict(heard) == expected and len(heard) == len(expected)  # the inner function was given the same


def test_the_script_gets_what_it_would_get_and_nothing_is_left_behind(tracker):
    own, function = tracker.Tracker.__dict__["log"], tracker.log
    hooks, heard = LoggerHooks(FOUND), []
    listener = lambda name, value: heard.append(name)  # noqa: E731
    hooks.subscribe(listener)
    one = tracker.Tracker()
    assert one.log({"a": 1}, step=3) is one and one.kept == [({"a": 1}, 3)] and tracker.log({"b": 1}) == ["b"]
    with pytest.raises(KeyError, match="fail"):
        one.log(data={"fail": 1.0})
    assert heard == ["a", "b", "fail"]
    assert tracker.Tracker.log.__doc__ == "Documented." and str(inspect.signature(tracker.Tracker.log)) == str(
        inspect.signature(own)
    )
    hooks.unsubscribe(listener)
    assert tracker.Tracker.__dict__["log"] is own and tracker.log is function
    assert one.log({"c": 1}) is one and heard == ["a", "b", "fail"]


def test_a_function_that_somebody_else_replaced_stays_replaced(tracker):
    hooks, listener = LoggerHooks(FOUND), print
    hooks.subscribe(listener)
    tracker.log = theirs = lambda data: "theirs"
    hooks.unsubscribe(listener)
    assert tracker.log is theirs


def test_a_logger_that_is_imported_later_is_found_and_an_unknown_version_is_left_alone(monkeypatch, tracker):
    monkeypatch.delitem(sys.modules, "some_tracker")
    hooks, heard = LoggerHooks((*FOUND, LoggerFunction("some_tracker", "Gone.log", _read))), []
    hooks.subscribe(lambda name, value: heard.append(name))
    monkeypatch.setitem(sys.modules, "some_tracker", tracker)
    tracker.log({"early": 1})
    hooks.look()
    tracker.log({"late": 1})
    assert heard == ["late"]


def test_an_error_of_ours_does_not_reach_the_script(tracker):
    def broken(args, kwargs):
        raise RuntimeError("ours")

    hooks, errors = LoggerHooks((LoggerFunction("some_tracker", "log", broken),)), []
    hooks.on_error.append(errors.append)
    hooks.subscribe(print)
    assert tracker.log({"a": 1}) == ["a"] and [str(e) for e in errors] == ["ours"]


def test_names_without_end_are_cut_off(tracker):
    hooks, heard = LoggerHooks(FOUND), set()
    hooks.subscribe(lambda name, value: heard.add(name))
    for i in range(2 * MOST_NAMES):
        tracker.log({f"item {i}": 1.0, "loss": 1.0})
    assert len(heard) == MOST_NAMES and "loss" in heard


def test_readers_of_the_known_libraries():
    """The form of each call, as the libraries document it."""

    class Logger:
        name_to_value = {"train/loss": 1.0}  # noqa: RUF012

    this, calls = Logger(), {}
    for function in FUNCTIONS:
        name = function.path.split(".")[-1]
        owned = "." in function.path
        if name == "add_scalar":
            calls[function] = [((this, "train/loss", 1.0, 5), {}), ((this,), {"tag": "train/loss", "scalar_value": 1})]
        elif name == "log_metric":
            calls[function] = [(("train/loss", 1.0), {"step": 2}), ((), {"key": "train/loss", "value": 1.0})]
        elif name == "dump":
            calls[function] = [((this, 7), {})]
        else:
            calls[function] = [
                ((this, {"train/loss": 1.0})[not owned :], {}),
                ((this, {"train": {"loss": 1}})[not owned :], {}),
            ]
    assert len(calls) == len(FUNCTIONS)
    for function, ways in calls.items():
        for args, kwargs in ways:
            assert dict(function.read(args, kwargs)) == {"train/loss": 1.0}, function


def _train(steps: int = 4, **options: bool) -> tuple[homeostat.shell.attach.AttachedRun, nn.Module]:
    from stable_baselines3.common.logger import Logger

    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = homeostat.attach(model, optimizer, every=1, measure=MeasureOptions(**options))
    logger = Logger(folder=None, output_formats=[])
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
        logger.record("eval/loss", float(step))
        worker = threading.Thread(target=logger.dump, args=(step,))
        worker.start()
        worker.join()
    pickle.dumps(Logger)
    run.detach()
    return run, model


def test_what_stable_baselines3_logs_is_in_the_record_at_its_steps():
    pytest.importorskip("stable_baselines3", reason="needs the extra rl")
    from stable_baselines3.common.logger import Logger

    own = Logger.__dict__["dump"]
    run, model = _train()
    assert run.vitals()["logged/eval/loss"]["network"] == [(1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0)]
    assert Logger.__dict__["dump"] is own and not LOGGER_HOOKS.on_error
    other, same = _train(metrics=False)
    assert not any(name.startswith("logged/") for name in other.vitals())
    assert torch.equal(model.weight, same.weight)
