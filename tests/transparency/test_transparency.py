"""A measured program leaves behind what it leaves behind alone: over a hundred programs, each measured in four ways.

Compared are weights, buffers, optimizer states, files and copies made of them, random streams, settings of torch and
of the interpreter, what was printed, and the exit code. A twentieth of the programs is in the fast suite, a tenth in
the slow one.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import cell
import pytest

WAYS = ("default", "every", "probe", "run")
"""Attached as by default; with every vital at every step; with a probe; under `homeostat run`."""
NOT_MEASURED = {
    "loops.updates_by_hand": "no optimizer steps",
    "torch.compiled_functions": "loss and step are compiled: no hook is called",
}
"""Program -> why nothing of it can be measured."""
PROGRAMS = [name for kind in cell.KINDS for name in cell.programs(kind)]


def run(folder, programs):
    """Program -> way -> what the cell left behind."""
    cells = [f"{program}/{way}" for program in programs for way in ("bare", *WAYS)]
    command = [sys.executable, str(Path(__file__).with_name("driver.py")), str(folder), *cells]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return {p: {w: json.loads((folder / p / w / "result.json").read_text()) for w in ("bare", *WAYS)} for p in programs}


def differences(one, other, place=""):
    """Where two results differ, and how."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            yield from differences(one.get(key), other.get(key), f"{place}.{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{place}[{number}]")
    elif one != other:
        yield f"{place}: {str(one)[-200:]} alone, {str(other)[-200:]} measured"


def wrong(program, results):
    """What is not as it should be: a difference, a part of ours that failed, nothing that was measured."""
    bare = results["bare"]
    assert "error" not in bare.get("out", {}).get("left", {}), bare
    for way in WAYS:
        seen = results[way]
        for key in ("code", "stdout"):
            yield from differences(bare[key], seen[key], f"{program}, {way}: {key}")
        yield from differences(bare.get("out", {}).get("left"), seen.get("out", {}).get("left"), f"{program}, {way}: ")
        layers, failed = measured(seen, way)
        yield from [f"{program}, {way}: failed: {part}" for part in failed]
        if not layers and program not in NOT_MEASURED:
            yield f"{program}, {way}: nothing was measured"


def measured(seen, way):
    """How many series were measured, and what failed; programs that end at once cannot tell."""
    if way == "run":
        record = seen.get("run")
        return (1, []) if record is None else (sum(map(len, record["vitals"].values())), record["failed"])
    return (seen["out"]["layers"], [*itertools.chain(*seen["out"]["failed"])]) if "out" in seen else (1, [])


def check(folder, programs):
    found = [line for program, results in run(folder, programs).items() for line in wrong(program, results)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("every", [20, pytest.param(10, marks=pytest.mark.slow)])
def test_some_programs_are_as_they_are_alone(every, tmp_path):
    check(tmp_path, PROGRAMS[::every])


@pytest.mark.thorough
@pytest.mark.parametrize("kind", cell.KINDS)
def test_programs_are_as_they_are_alone(kind, tmp_path):
    check(tmp_path, cell.programs(kind))


def test_the_grid_sees_differences():
    alone = {"code": 0, "stdout": "a\n", "out": {"left": {"made": ["x"]}, "layers": 3, "failed": []}}
    same = {"bare": alone, **{way: alone for way in WAYS}}
    assert list(wrong("p", same)) == []
    other = [{"made": ["y"]}, 3, []], [{"made": ["x"]}, 0, []], [{"made": ["x"]}, 3, [["part"]]]
    outs = [{"out": dict(zip(("left", "layers", "failed"), each, strict=True))} for each in other]
    for change in ({"code": 1}, {"stdout": ""}, *outs):
        assert len(list(wrong("p", {**same, "every": {**alone, **change}}))) == 1
