"""Sinks: what they are given, that a failing one is left out, and that the run stays what it would have been."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

import homeostat
from homeostat.core.errors import BadSetting, HomeostatError, UnknownName
from homeostat.core.finding import Finding
from homeostat.record import RunRecord
from homeostat.shell.run.sinks import SinkRunner
from homeostat.sinks import Alert, Value, make_sinks, series_name
from homeostat.sinks.sink import within


class Memory:
    """Keeps what it is given; draws random numbers, as libraries do; fails at a call of this name."""

    name = "memory"

    def __init__(self, fails_at: str = "") -> None:
        self.fails_at = fails_at
        self.calls: list[str] = []
        self.values: list[Value] = []
        self.alerts: list[Alert] = []

    def _called(self, name: str) -> None:
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(1)
        self.calls.append(name)
        if name == self.fails_at:
            raise OSError("no space left")

    def open(self, run: str, script: str) -> None:
        self._called("open")

    def write(self, values: Sequence[Value], alerts: Sequence[Alert]) -> None:
        self._called("write")
        self.values += values
        self.alerts += alerts

    def close(self, status: str) -> None:
        self._called(f"close {status}")


def train(**options: object) -> tuple[homeostat.shell.attach.AttachedRun, list[torch.Tensor], float]:
    torch.manual_seed(0)
    random.seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3), nn.Softmax(dim=1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with homeostat.attach(model, optimizer, every=5, **options) as run:  # type: ignore[arg-type]
        for _ in range(40):
            loss = nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.randint(0, 3, (16,)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return run, list(model.parameters()), random.random()


def test_a_sink_gets_every_sampled_value_and_alerts_and_the_run_stays_the_same():
    sink = Memory()
    run, weights, draw = train(log=sink)
    _, bare, bare_draw = train()
    assert all(map(torch.equal, weights, bare)) and draw == bare_draw
    assert sink.calls[0] == "open" and sink.calls[-1] == "close finished"
    got: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for step, vital, layer, value in sink.values:
        got.setdefault(vital, {}).setdefault(layer, []).append((step, value))
    recorded = {
        vital: {layer: [p for p in line if p[1] is not None] for layer, line in layers.items()}
        for vital, layers in run.vitals().items()
        if not vital.startswith(("step-", "logged/"))
    }
    assert got == {
        vital: left for vital, layers in recorded.items() if (left := {k: v for k, v in layers.items() if v})
    }
    assert [(a.title, a.severity) for a in sink.alerts] == [
        (f"{f.condition}: {f.severity}", f.severity) for f in run.findings() if f.severity != "info"
    ]
    assert "softmax" in sink.alerts[0].text and "Usually helps: " in sink.alerts[0].text


@pytest.mark.parametrize("call", ["open", "write", "close finished"])
def test_a_sink_that_fails_is_reported_once_and_left_out_and_others_go_on(call):
    bad, good = Memory(call), Memory()
    bad.name = "bad"  # type: ignore[misc]
    with pytest.warns(RuntimeWarning, match=r"the sink bad.*no space left"):
        run, weights, _ = train(log=[bad, good])
    _, bare, _ = train()
    assert all(map(torch.equal, weights, bare)) and good.calls[-1] == "close finished" and good.values
    assert bad.calls.count(call) == 1 and bad.calls[-1] == call
    assert [entry["part"] for entry in run.to_json()["failed"]] == ["the sink bad"]


def test_an_alert_is_given_once_and_again_when_it_gets_worse_and_writes_are_apart():
    sink = Memory()
    runner = SinkRunner([sink], RunRecord.create(None, script="a.py"), lambda part, error: pytest.fail(str(error)))
    runner.start()
    mild, severe = (Finding("dead-units", how, 3, ("fc1",), {"text": "dead"}) for how in ("warning", "critical"))
    note = Finding("slow", "info", 3)
    for step, findings in enumerate(([mild, note], [mild], [severe], [mild], [])):
        runner.set_findings(step, findings)
    runner.write_if_due()
    assert [(a.step, a.title) for a in sink.alerts] == [(0, "dead-units: warning"), (2, "dead-units: critical")]
    runner.add_rows([(4, "loss", "network", 1.0), (4, "loss", "network", None), (4, "logged/loss", "network", 1.0)])
    runner.write_if_due()
    assert sink.calls == ["open", "write"]  # within the same second
    runner.stop("failed")
    assert sink.values == [(4, "loss", "network", 1.0)] and sink.calls[2:] == ["write", "close failed"]


def test_names_are_those_of_the_field_and_what_cannot_be_used_is_said():
    assert series_name("dormant-units", "blocks.0.fc1") == "homeostat/dormant-units/blocks.0.fc1"
    assert series_name("loss", 'a"b*c') == "homeostat/loss/a_b_c"
    with pytest.raises(UnknownName, match="did you mean 'tensorboard'"):
        make_sinks("tensorbord")
    with pytest.raises(BadSetting, match="objects with open, write and close"):
        make_sinks([object()])  # type: ignore[list-item]
    with pytest.raises(BadSetting, match="named twice"):
        make_sinks([Memory(), Memory()])


def test_a_missing_library_is_named_before_the_script_starts(tmp_path):
    (tmp_path / "train.py").write_text("raise SystemExit('must not start')")
    block = "import sys; sys.modules['wandb'] = None; from homeostat.cli import main; main()"
    command = [sys.executable, "-c", block, "run", "--log", "wandb", "train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "pip install wandb" in done.stderr and done.stderr.count("\n") == 1


def test_a_call_that_waits_for_a_server_is_left_and_its_error_is_passed_on():
    import threading

    never = threading.Event()
    with pytest.raises(HomeostatError, match="took longer than"):
        within(0.05, never.wait, "asking")
    never.set()
    with pytest.raises(ZeroDivisionError):
        within(1, lambda: 1 / 0, "dividing")
