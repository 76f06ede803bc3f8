"""An error inside Homeostat: training goes on, and the run never reads as healthy."""

import io
import json
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from torch import nn

import homeostat
from homeostat.diagnosis.closed_loop import ClosedLoop
from homeostat.diagnosis.diagnostician import Diagnostician
from homeostat.record import RunRecord
from homeostat.report.page import contents
from homeostat.report.terminal import print_summary
from homeostat.shell.observe.observer import Observer
from homeostat.shell.run import lazy_trace
from homeostat.shell.run.controllers import ControllerRunner
from homeostat.shell.run.network_run import NetworkRun
from homeostat.shell.run.sync import RankSync

PARTS = {
    "diagnosis": (Diagnostician, "update"),
    "measuring": (Observer, "sample"),
    "before a step": (Observer, "before_update"),
    "after a step": (RankSync, "check"),
    "tracing the network": (lazy_trace, "trace_units"),
    "controllers": (ControllerRunner, "turn"),
    "the closed loop": (ClosedLoop, "step"),
    "ending": (NetworkRun, "end"),
    "record": (RunRecord, "add_vitals"),
}
"""Part -> what raises in it."""


def broken(*args, **kwargs):
    raise KeyError("broken on purpose")


def train(attach: bool):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    controllers = ["proportional:vital=loss,knob=lr,kp=0.0,every=1"]
    run = homeostat.attach(model, optimizer, treatments=["auto"], controllers=controllers, every=1) if attach else None
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(torch.randn(32, 6)), torch.randn(32, 2)).backward()
        optimizer.step()
    if run is not None:
        run.detach()
    return run, [p.detach().clone() for p in model.parameters()]


@pytest.mark.filterwarnings("ignore:homeostat")
@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_fails_is_named_in_record_terminal_page_and_json(part, monkeypatch, capsys):
    _, bare = train(attach=False)
    monkeypatch.setattr(*PARTS[part], broken)
    monkeypatch.setenv("HOMEOSTAT_DEBUG", "1")
    run, weights = train(attach=True)
    assert all(torch.equal(a, b) for a, b in zip(weights, bare, strict=True))
    assert "broken on purpose" in capsys.readouterr().err, "no traceback"
    shown = io.StringIO()
    print_summary(run._record, Console(file=shown, width=300))
    page, found = contents(run._record), run.to_json()
    for text in (shown.getvalue(), page["headline"]):
        assert "iagnosed: " in text and part in text and "broken on purpose" in text and "Healthy" not in text
    assert page["health"] != "healthy" and not found["diagnosed"]
    assert [one["part"] for one in found["failed"]] == [part]
    assert found["failed"][0]["times"] >= 1 and "broken on purpose" in found["failed"][0]["why"]


def test_the_same_run_without_an_error_reads_as_diagnosed():
    run, _ = train(attach=True)
    assert run.to_json()["diagnosed"] and run.to_json()["failed"] == []


SCRIPT = """
import torch
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(5):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
print("trained")
"""
PATCHED = """
import sys
from homeostat.{module} import {owner}
def broken(*args, **kwargs):
    raise KeyError("broken on purpose")
{owner}.{method} = broken
from homeostat.cli import main
sys.argv = ["homeostat", "run", "--record", "runs", "--json", "run.json", *sys.argv[1:], "script.py"]
main()
"""
LAUNCHED = {
    "starting": ("record", "RunRecord", "create"),
    "looking for networks": ("shell.launch.auto_attach", "AutoAttach", "_take_in"),
    "diagnosis": ("diagnosis.diagnostician", "Diagnostician", "update"),
}


@pytest.mark.parametrize(
    "part", ["starting", "looking for networks", pytest.param("diagnosis", marks=pytest.mark.slow)]
)
def test_homeostat_run_says_that_a_script_was_not_diagnosed(part, tmp_path):
    module, owner, method = LAUNCHED[part]
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "patched.py").write_text(PATCHED.format(module=module, owner=owner, method=method))
    command = [sys.executable, "patched.py", "--fail-on", "critical"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "trained\n" and done.returncode == 10, "it must not pass a gate as a healthy run"
    assert "ot diagnosed" in done.stderr and part in done.stderr and "Healthy" not in done.stderr
    if part != "starting":  # where no record can be made, there is no JSON of it either
        found = json.loads((tmp_path / "run.json").read_text())
        assert not found["diagnosed"] and [one["part"] for one in found["failed"]] == [part]


def test_a_lazy_module_that_lives_elsewhere_does_no_harm():
    lazy = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(1))
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with homeostat.attach(model, optimizer, every=1) as run:
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(torch.randn(16, 8)), torch.randn(16, 1)).backward()
            optimizer.step()
    assert run.to_json()["failed"] == [] and isinstance(lazy[0].weight, nn.parameter.UninitializedParameter)
