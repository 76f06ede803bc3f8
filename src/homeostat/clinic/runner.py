"""Runs programs as `homeostat run` does, each in a fork of one warm process."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from homeostat.clinic.programs import TrainingProgram
from homeostat.clinic.store import TOO_LONG, Result, raised
from homeostat.core.component import components
from homeostat.diagnosis.diagnostician import Diagnostician
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.replay import changes_of
from homeostat.record import RunReader, open_record

LIMIT_SECONDS = 30
"""Seconds of wall or processor time after which a program is ended."""
_POLL = 0.005


def warm() -> None:
    """Import once what every program needs."""
    import sklearn.datasets  # noqa: F401
    import torch

    import homeostat.shell.launch.auto_attach
    import homeostat.shell.launch.runner
    import homeostat.shell.run.settings  # noqa: F401

    components("condition")
    components("vital")
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # the first one imports the compiler
    gc.freeze()  # no program owns the present objects, so its garbage collector can skip them


def run_program(program: TrainingProgram, limit: int = LIMIT_SECONDS) -> Result:
    """Run one program in a child process and return its result, whatever happens."""
    return run_text(program.digest, program.name, *program.texts(), limit=limit)


def run_text(
    digest: str, name: str, text: str, before: str = "", treat: Sequence[str] = (), limit: int = LIMIT_SECONDS
) -> Result:
    """Run a script with the treatments of `--treat`, after the earlier script that it continues ("" for none)."""
    folder = Path(tempfile.mkdtemp(prefix="homeostat-clinic-"))
    try:
        began = time.perf_counter()
        if before:
            _in_child(lambda: _plain(before, folder), folder, limit)
        ended = _in_child(lambda: _measured(text, folder, treat), folder, limit)
        return _result(digest, name, folder, ended, time.perf_counter() - began)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _in_child(work: Callable[[], None], folder: Path, limit: int) -> str:
    """ "finished", "failed" or "too long"."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become(work, folder, limit)
    end = time.perf_counter() + 10 * limit
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXCPU):
                return TOO_LONG
            return "finished" if status == 0 else "failed"
        if time.perf_counter() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return TOO_LONG
        time.sleep(_POLL)


def _become(work: Callable[[], None], folder: Path, limit: int) -> None:
    """Do the work with its output in a file, and exit this process."""
    code = 1
    try:
        warnings.resetwarnings()  # as in a new interpreter
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        os.chdir(folder)
        file = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(file, stream)
        sys.stdout, sys.stderr = (open(stream, "w", closefd=False) for stream in (1, 2))
        work()
        code = 0
    except BaseException:
        with suppress(BaseException):
            traceback.print_exc()
    with suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _plain(text: str, folder: Path) -> None:
    """The earlier run that a program continues."""
    from homeostat.shell.launch.program import Program

    path = folder / "before.py"
    path.write_text(text)
    Program.parse([str(path)]).run()


def _measured(text: str, folder: Path, treat: Sequence[str]) -> None:
    from homeostat.shell.hooks.clock import CLOCK
    from homeostat.shell.launch.runner import Launch
    from homeostat.shell.run.settings import Settings

    path = folder / "train.py"
    path.write_text(text)
    CLOCK.now = time.process_time  # a busy machine changes neither the budget nor what is found
    seen: list[Facts] = []
    Diagnostician.listeners.append(seen.append)
    settings = Settings.parse(treat=treat, record=folder / "records", quiet=True)
    try:
        Launch([str(path)], settings, command=["homeostat", "run", "train.py"]).run()
    finally:
        (folder / "facts.json").write_text(json.dumps(changes_of(seen)))


def _result(digest: str, name: str, folder: Path, ended: str, seconds: float) -> Result:
    output = _text(folder / "output.txt")
    printed = [line[6:] for line in output.splitlines() if line.startswith("TRUTH ")]
    common: dict[str, Any] = {
        "digest": digest,
        "name": name,
        "status": ended,
        "seconds": round(seconds, 2),
        "truth": json.loads(printed[-1]) if printed else {},
        "tail": "" if printed else output[-2000:],
    }
    path = next(iter(sorted((folder / "records").glob("*.sqlite"))), None)
    if path is None:
        return Result(**common)
    with open_record(path) as record:
        return Result(
            **common,
            steps=record.meta.steps,
            overhead=record.meta.overhead,
            failed=tuple(f"{f.part}: {f.why}" for f in record.failures()),
            live=raised(_events(record)),
            first=tuple(f.condition for f in record.findings() if f.severity != "info"),
            series=_packed(record.vitals()),
            facts_at=tuple(json.loads(_text(folder / "facts.json") or "[]")),
            boundaries=tuple(b.step for b in record.boundaries()),
        )


def _events(record: RunReader) -> list[tuple[int, str, str]]:
    return [(e.step, e.finding.condition, e.finding.severity) for e in record.finding_events() if e.event != "gone"]


def _packed(vitals: Mapping[str, Mapping[str, Sequence[tuple[int, float | None]]]]) -> dict[str, Any]:
    """The vitals that conditions read, rounded to six digits."""
    read = {name for condition in components("condition").values() for name in condition.reads}
    packed: dict[str, Any] = {}
    for vital in read & set(vitals):
        for layer, points in vitals[vital].items():
            steps = [step for step, _ in points]
            values = [None if v is None else float(f"{v:.6g}") for _, v in points]
            packed.setdefault(vital, {"points": {}})["points"][layer] = [steps, values]
    return packed


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
