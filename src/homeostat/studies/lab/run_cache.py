"""Stores finished (arm, seed) runs of a study, so that an interrupted study continues where it stopped.

Each run is one JSON line, appended and flushed to disk. The file name contains a fingerprint of the study, its
settings, its sizes and the versions. Each line contains a fingerprint of the code that the run depends on. Runs of
other code are not used, and edits elsewhere in the package void no run.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from homeostat import __version__
from homeostat.catalogue.status import code_of
from homeostat.core.errors import BadInput
from homeostat.studies.lab.cell import Cell, Finished
from homeostat.studies.lab.study import Study


def versions() -> dict[str, str]:
    """Everything besides the code that a result depends on."""
    return {"homeostat": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


class Cells:
    """The finished runs of one study under one budget.

    Args:
        folder: folder of the files; created when the first run is stored.

    Raises:
        BadInput: the existing file cannot be read.
    """

    def __init__(self, study: Study, budget: str, folder: Path) -> None:
        facts = (study.name, study.settings(), dict(study.sizes(budget)), versions())
        mark = hashlib.blake2b(repr(facts).encode(), digest_size=6).hexdigest()
        self.path = folder / f"{study.name}-{budget}-{mark}.jsonl"
        self.damaged = 0
        self._study = study
        self._codes: dict[str, str] = {}
        self._done: dict[Cell, Finished] = {}
        if self.path.exists():
            self._read()

    def _code(self, arm: str) -> str:
        if arm not in self._codes:
            self._codes[arm] = code_of(self._study, arm)
        return self._codes[arm]

    def _read(self) -> None:
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise BadInput(f"cannot read {self.path}: {error}") from error
        for line in filter(None, lines):
            try:
                row = json.loads(line)
                times = float(row["seconds"]), float(row["processor_seconds"])
                kept = Finished(dict(row["measures"]), *times)
                if row["code"] and row["code"] == self._code(row["arm"]):
                    self._done[row["arm"], row["seed"]] = kept
            except (ValueError, KeyError, TypeError):
                self.damaged += 1

    def get(self, cell: Cell) -> Finished | None:
        """The run, or None if it is not finished."""
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
        """Store a run in memory and on disk.

        Raises:
            BadInput: the folder cannot be written to.
        """
        row: dict[str, Any] = {"arm": cell[0], "seed": cell[1], **vars(finished), "code": self._code(cell[0])}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                # a crash may have cut off the last line: start on a new line
                file.write(b"\n" + json.dumps(row).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise BadInput(f"cannot keep finished runs in {self.path.parent}: {error}") from error
        self._done[cell] = finished
