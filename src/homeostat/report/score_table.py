"""Scores of tasks from CSV files."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from homeostat.core.atomic_file import reason
from homeostat.core.errors import BadInput, UnknownName
from homeostat.core.signals import pass_on
from homeostat.report.score_log import TEST, TRAIN, Score

_ALIASES = {
    "step": ("step", "exp_num", "iteration", "epoch"),
    "task": ("task", "task_name"),
    "score": ("score", "accuracy", "reward", "performance"),
    "training": ("training", "trained", "current"),
    "kind": ("kind", "block_type"),
    "run": ("run", "seed"),
}


def read_scores(path: Path, score: str | None = None) -> list[Score]:
    """The log of a lifetime.

    Columns: `step` (or `exp_num`, `iteration`, `epoch`; without one, lines count as steps), `task` (or `task_name`),
    `score` (or `accuracy`, `reward`, `performance`), and one of

    - `training`, the task that was trained last, empty before any training;
    - `kind` (or `block_type`): "train" for a learning experience of the task, "test" for an evaluation.

    Other columns are ignored, and so are rows without a score.

    Args:
        path: the file.
        score: name of the column of scores, if another.

    Raises:
        BadInput: the file cannot be read, a column is missing, or a value is not understood (the line is named).
        UnknownName: there is no column `score`.
    """
    table = _read(path, score)
    if not table.has("training") and not table.has("kind"):
        raise BadInput(f"{path} does not say what was trained when: add a column `training` (the task trained last, "
                       "empty before any training) or `kind` (train or test)")  # fmt: skip
    current: str | None = None
    scores: list[Score] = []
    for row in table.rows:
        value, task, kind = row.number("score"), row.task(), row.kind()
        if value is None:
            continue
        if kind == TRAIN:
            current = task
        elif table.has("training"):
            current = row.text("training") or None
        step = row.number("step") if table.has("step") else float(row.line)
        if step is None or (scores and step < scores[-1].step):
            raise row.error(f"steps must be given and must not fall, got {row.text('step') or 'none'}")
        scores.append(Score(step, task, value, kind, current))
    if not scores:
        raise BadInput(f"{path} has no scores")
    return scores


def read_experts(path: Path, score: str | None = None) -> dict[str, list[list[float]]]:
    """Learning curves of single-task experts: task -> curves.

    Columns as in `read_scores`, without `training`. Evaluations are ignored. A column `run` or `seed` tells several
    curves of a task apart.

    Raises:
        BadInput, UnknownName: as `read_scores`.
    """
    curves: dict[tuple[str, str], list[float]] = {}
    for row in _read(path, score).rows:
        value = row.number("score")
        if value is not None and (row.kind(TRAIN)) == TRAIN:
            curves.setdefault((row.task(), row.text("run")), []).append(value)
    if not curves:
        raise BadInput(f"{path} has no learning experiences")
    found: dict[str, list[list[float]]] = {}
    for (task, _), curve in curves.items():
        found.setdefault(task, []).append(curve)
    return found


@dataclass(frozen=True)
class _Row:
    path: Path
    line: int
    cells: Mapping[str, str | None]
    columns: Mapping[str, str]

    def error(self, what: str) -> BadInput:
        return BadInput(f"{self.path}, line {self.line}: {what}")

    def text(self, role: str) -> str:
        return (self.cells.get(self.columns.get(role, "")) or "").strip()

    def number(self, role: str) -> float | None:
        try:
            value = float(self.text(role) or math.nan)
        except ValueError as error:
            raise self.error(f"{self.text(role)!r} is no number") from error
        if math.isinf(value):
            raise self.error(f"the {role} is infinite")
        return None if math.isnan(value) else value

    def task(self) -> str:
        if not self.text("task"):
            raise self.error("no task is given")
        return self.text("task")

    def kind(self, default: str = TEST) -> str:
        kind = self.text("kind").lower() or default
        if kind not in (TRAIN, TEST):
            raise self.error(f"{self.columns['kind']} is {TRAIN} or {TEST}, not {kind!r}")
        return kind


@dataclass(frozen=True)
class _Table:
    rows: Sequence[_Row]
    columns: Mapping[str, str]

    def has(self, role: str) -> bool:
        return role in self.columns


def _read(path: Path, score: str | None) -> _Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or ())
            lines = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        pass_on(error)
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise BadInput(f"cannot read {path} as a CSV file ({why})") from error
    if score is not None and score not in header:
        raise UnknownName("column", score, header)
    columns = {role: name for role, names in _ALIASES.items() for name in reversed(names) if name in header}
    columns |= {"score": score} if score else {}
    for role in ("task", "score"):
        if role not in columns:
            names = " or ".join(f"`{name}`" for name in _ALIASES[role])
            raise BadInput(f"{path} has no column {names}; it has {', '.join(header) or 'no header'}")
    return _Table([_Row(path, line, row, columns) for line, row in lines], columns)
