"""All statements that read a run record, and the checks of their columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from homeostat.core.signals import pass_on
from homeostat.record import columns as c

STATUSES = ("finished", "failed", "interrupted")
"""States of a run."""
EVENTS = ("appeared", "severity", "layers", "gone")
"""Events of a finding."""


@dataclass(frozen=True)
class Query:
    """A statement, and the check of each of its columns by name."""

    table: str
    columns: tuple[tuple[str, c.Check], ...]
    rest: str = ""
    valid: Callable[[Sequence[Any]], bool] = lambda rows: False
    """Whether all rows pass their checks, for a table of many rows; False means to check them one by one."""

    @property
    def sql(self) -> str:
        return f"SELECT {', '.join(name for name, _ in self.columns)} FROM {self.table} {self.rest}"

    def checked_all(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Checked rows; see `checked`."""
        return rows if self.valid(rows) else [self.checked(row) for row in rows]

    def checked(self, row: Sequence[Any]) -> tuple[Any, ...]:
        """A checked row.

        Raises:
            ValueError: a value is invalid; the message names the column.
        """
        try:
            return tuple([check(value) for (_, check), value in zip(self.columns, row, strict=True)])
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            pass_on(error)
            raise ValueError(self._complaint(row) or str(error)) from error

    def _complaint(self, row: Sequence[Any]) -> str:
        for (name, check), value in zip(self.columns, row, strict=True):
            try:
                check(value)
            except (ValueError, TypeError, LookupError, ArithmeticError) as error:
                pass_on(error)
                return f"{self.table.partition(' ')[0]}.{name}: {error}"
        return ""


def _query(table: str, rest: str = "", /, **columns: c.Check) -> Query:
    return Query(table, tuple(columns.items()), rest)


RUN = _query(
    "run",
    run=c.text,
    script=c.text,
    command=c.json_texts,
    cwd=c.text,
    seed=c.maybe(c.any_whole),
    settings=c.json_object,
    environment=c.json_object,
    started_utc=c.time,
    updated_utc=c.time,
    ended_utc=c.maybe(c.time),
    status=c.one_of(("running", *STATUSES)),
    steps=c.step,
    wall_seconds=c.finite,
    overhead=c.maybe(c.finite),
    host=c.text,
    pid=c.whole(1, 2**31 - 1),
    birth=c.text,
)
RUN_ID = _query("run", run=c.text)
PROGRESS = _query("run", steps=c.step, wall_seconds=c.finite, overhead=c.maybe(c.finite))
SERIES = _query("series", "ORDER BY id", id=c.any_whole, vital=c.text, layer=c.text)


def _points(rows: Sequence[tuple[Any, ...]]) -> bool:
    kinds = {tuple(map(type, row)) for row in rows}
    plain = all(set(kind[:-1]) == {int} and kind[-1] in (float, type(None)) for kind in kinds)
    return plain and min((row[-2] for row in rows), default=0) >= 0


_POINT = (("step", c.step), ("value", c.maybe(c.number)))
VALUES = Query("vitals", (("series", c.any_whole), *_POINT), "ORDER BY series, step", _points)
LINE_FROM = Query("vitals", _POINT, "WHERE series = ? AND step >= ? ORDER BY step", _points)
LINE = Query("vitals", _POINT, "WHERE series = ? ORDER BY step", _points)
FINDINGS = _query("findings", "ORDER BY id", finding=c.finding)
FINDING_EVENTS = _query("finding_events", "ORDER BY id", step=c.step, event=c.one_of(EVENTS), finding=c.finding)
JOURNAL = _query(
    "journal",
    "ORDER BY id",
    step=c.step,
    component=c.text,
    action=c.text,
    place=c.text,
    why=c.text,
    before=c.maybe(c.number),
    after=c.maybe(c.number),
    detail=c.json_object,
)
BOUNDARIES = _query("boundaries", "ORDER BY step, id", step=c.step, label=c.text)
NOT_MEASURED = _query("not_measured", "ORDER BY id", what=c.text, why=c.text)
CADENCES = _query("cadences", "ORDER BY id", step=c.step, vital=c.text, every=c.whole(1))
FACTS = _query("facts", "ORDER BY name", name=c.text, value=c.any_json)
