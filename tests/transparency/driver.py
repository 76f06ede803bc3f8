"""Runs cells of the grid, each in a process forked from this one, which has imported what takes long.

    python driver.py FOLDER PROGRAM/WAY ...

A cell runs in FOLDER/PROGRAM/WAY, where its output and, as `result.json`, what it left behind are kept.
"""

import atexit
import gc
import json
import os
import runpy
import sys
from pathlib import Path

import torch
import torch._subclasses.fake_tensor
import torch.optim.swa_utils

import homeostat.cli
import homeostat.shell.attach
from homeostat.core.component import discover

HERE = Path(__file__).parent
CELL = str(HERE / "cell.py")


def arguments(program, way):
    """The command line of a cell, as if it had been typed."""
    out = os.path.join(os.getcwd(), "out.json")
    if way != "run":
        return [CELL, program, way, out]
    options = ["--quiet", "--every", "1", "--vitals", "all", "--record", "records", "--json", "run.json"]
    return ["homeostat", "run", *options, CELL, program, "bare", out]


def run(folder, program, way):
    """Fork; the child returns True. The parent waits and notes how the child ended."""
    folder.mkdir(parents=True)
    child = os.fork()
    if not child:
        os.chdir(folder)
        for number, name in ((1, "stdout"), (2, "stderr")):
            file = os.open(name, os.O_WRONLY | os.O_CREAT)
            os.dup2(file, number)
            os.close(file)
        sys.argv = arguments(program, way)
        sys.path[0] = str(HERE)
        return True
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    read = {name: folder / f"{name}.json" for name in ("out", "run")}
    result = {"code": code, "stdout": (folder / "stdout").read_text()}
    result |= {name: json.loads(path.read_text()) for name, path in read.items() if path.exists()}
    (folder / "result.json").write_text(json.dumps(result))
    return False


def main():
    discover()
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)  # imports the compiler
    gc.freeze()
    folder, *cells = sys.argv[1:]
    for cell in cells:
        program, way = cell.split("/")
        if run(Path(folder, program, way), program, way):
            # out of this module's frames, so that an error ends the child as it ends an interpreter
            return homeostat.cli.main if way == "run" else lambda: runpy.run_path(CELL, run_name="__main__")
    return None


if __name__ == "__main__":
    if (then := main()) is not None:
        then()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(0)  # to tear the interpreter down takes longer than the cell
