"""The law "resumes in another process": a run saved in one process continues bit for bit in a new process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from homeostat.core.treatment import Treatment
from homeostat.testing import grid
from homeostat.testing.engine_laws import AttachedLoop, eager, loop
from homeostat.testing.mini_run import same
from homeostat.testing.resolve import loaded

HALF, STEPS = 9, 18
CASES = ("DOUBLE", "CONV")
"""Names of the networks of the grid on which the law is checked."""
_CHILD = "import sys; from homeostat.testing.two_processes import main; main(sys.argv[1])"


def resumes_elsewhere(treatment: Treatment) -> None:
    """Saved with `run.save` and resumed in a new process, it continues bit for bit as in the old process."""
    wrong = continued_elsewhere([treatment])[0]
    assert not wrong, wrong


def continued_elsewhere(treatments: Sequence[Treatment]) -> list[str]:
    """The difference for each treatment after continuing all runs in one new process; "" if there is none."""
    with tempfile.TemporaryDirectory() as folder:
        keys = [(number, case) for number in range(len(treatments)) for case in CASES]
        expected = {key: _saved_half_way(treatments[key[0]], key[1], Path(folder) / _name(*key)) for key in keys}
        _run_child(folder)
        found = {key: torch.load(Path(folder) / f"{_name(*key)}.end", weights_only=True) for key in keys}
    outcome = [""] * len(treatments)
    for (number, case), end in expected.items():
        if wrong := same(end, found[number, case]):
            outcome[number] = f"on {getattr(grid, case).name!r}, {wrong} differs in a new process"
    return outcome


def _name(number: int, case: str) -> str:
    return f"{number}-{case}"


def _saved_half_way(treatment: Treatment, case: str, path: Path) -> dict[str, Tensor]:
    """Train, save in the middle, and return all tensors at the end."""
    it = loop(treatment, eager, grid.suited(getattr(grid, case), treatment))
    it.go(1, HALF)
    it.run.save(path.with_name(f"{path.name}.saved"))
    module, name = type(treatment).__module__, type(treatment).__qualname__
    file = str(getattr(sys.modules[module], "__file__", ""))
    settings = {"case": case, "class": [module, name, file], "settings": treatment.settings()}
    path.with_name(f"{path.name}.json").write_text(json.dumps(settings), encoding="utf-8")
    it.go(HALF + 1, STEPS)
    return _end(it)


def _end(it: AttachedLoop) -> dict[str, Tensor]:
    """Weights, buffers, optimizer state and the treatment's state after the last step."""
    found = {f"model/{n}": v.clone() for n, v in it.model.state_dict().items()}
    for number, state in it.optimizer.state_dict()["state"].items():
        found |= {f"optimizer/{number}/{k}": torch.as_tensor(v).clone() for k, v in state.items()}
    for network in it.run.state_dict()["networks"].values():
        for name, applied in network["treatments"]["applied"].items():
            found |= {f"{name}/{k}": v.clone() for k, v in applied["state"].items()}
    it.run.detach()
    return found


def _run_child(folder: str) -> None:
    here = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [here, os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-W", "ignore", "-c", _CHILD, folder]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, f"the new process failed: {done.stderr.strip()[-500:]}"


def main(folder: str) -> None:
    """Continue every run saved in the folder. Runs in the new process."""
    torch.set_num_threads(1)
    for path in sorted(Path(folder).glob("*.json")):
        settings = json.loads(path.read_text("utf-8"))
        torch.save(_continued(settings, path.with_suffix(".saved")), path.with_suffix(".end"))


def _continued(settings: Mapping[str, Any], saved: Path) -> dict[str, Tensor]:
    """The final tensors of a run resumed from a checkpoint, on a network with different initial weights."""
    treatment = loaded(*settings["class"])(**settings["settings"])
    case = grid.suited(getattr(grid, settings["case"]), treatment)
    it = loop(treatment, eager, case, seed=1, resume=saved)
    it.go(HALF + 1, STEPS)
    return _end(it)
