"""Finished (arm, seed) runs of a study, kept so that an interrupted study goes on where it stopped.

One JSON line a run, appended whole and flushed to disk. The file's name carries a fingerprint of the study, its
settings, its sizes, the versions and the source code, so a run made by other code is never taken for this one's.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from homeostat import __version__
from homeostat.core.errors import BadInput
from homeostat.studies.study import Study
from homeostat.studies.verdict import Measure

Cell = tuple[str, int]
"""An arm and a seed."""

_ROOMS = (
    "core",
    "streams",
    "vitals",
    "treatments",
    "controllers",
    "objectives",
    "curves",
    "diagnosis",
    "shell",
    "studies",
)


@dataclass(frozen=True)
class Finished:
    """One run: what it measured, how long it took, and the processor time of that."""

    measures: dict[str, Measure]
    seconds: float
    processor_seconds: float


@cache
def code() -> str:
    """Fingerprint of the package's source that a study can depend on."""
    mark = hashlib.blake2b(digest_size=8)
    for room in _ROOMS:
        folder = Path(str(files("homeostat"))) / room
        for path in sorted(folder.rglob("*.py")):
            mark.update(path.name.encode() + path.read_bytes())
    return mark.hexdigest()


def versions() -> dict[str, str]:
    """What a result depends on besides the code."""
    return {"homeostat": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


class Cells:
    """The finished runs of one study under one budget.

    Args:
        folder: where the files lie; made when the first run is kept.

    Raises:
        BadInput: the file that is there cannot be read.
    """

    def __init__(self, study: Study, budget: str, folder: Path) -> None:
        facts = (study.name, study.settings(), dict(study.sizes(budget)), versions(), code())
        mark = hashlib.blake2b(repr(facts).encode(), digest_size=6).hexdigest()
        self.path = folder / f"{study.name}-{budget}-{mark}.jsonl"
        self.damaged = 0
        self._done: dict[Cell, Finished] = {}
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise BadInput(f"cannot read {self.path}: {error}") from error
        for line in filter(None, lines):
            try:
                row = json.loads(line)
                times = float(row["seconds"]), float(row["processor_seconds"])
                self._done[row["arm"], row["seed"]] = Finished(dict(row["measures"]), *times)
            except (ValueError, KeyError, TypeError):
                self.damaged += 1

    def get(self, cell: Cell) -> Finished | None:
        """The run, when it is finished."""
        return self._done.get(cell)

    def finished(self, cell: Cell) -> Finished:
        """The run.

        Raises:
            BadInput: it is not finished.
        """
        finished = self.get(cell)
        if finished is None:
            raise BadInput(f"arm {cell[0]!r}, seed {cell[1]} gave no result; run it again")
        return finished

    def keep(self, cell: Cell, finished: Finished) -> None:
        """Remember a run, on disk too.

        Raises:
            BadInput: the folder cannot be written to.
        """
        row: dict[str, Any] = {"arm": cell[0], "seed": cell[1], **vars(finished)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                # A line that was cut off by a crash must not swallow this one: start on a fresh line.
                file.write(b"\n" + json.dumps(row).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise BadInput(f"cannot keep finished runs in {self.path.parent}: {error}") from error
        self._done[cell] = finished
