"""Stores the result of each program as JSON lines in a folder, so that runs can be continued and judged again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from homeostat.core.finding import SEVERITIES, Finding
from homeostat.diagnosis.condition import Condition
from homeostat.diagnosis.replay import StoredRun, updates

FILE = "results.jsonl"
TOO_LONG = "too long"


@dataclass(frozen=True)
class Result:
    """The result of one program.

    Args:
        digest: digest of the program's text.
        name: name of the program.
        status: "finished", "failed" (its exit code was not 0) or "too long".
        seconds: wall time, including the earlier run that it continues.
        truth: what the program printed about itself.
        tail: end of its output, if it printed no truth.
        steps: optimizer steps.
        overhead: share of the wall time spent measuring.
        failed: parts of Homeostat that failed.
        live: condition -> [step at which it was first raised above "info" (None if never), worst severity].
        first: conditions above "info" at the end, in the order in which they are shown.
        series: vital -> {"points": {layer: [steps, values]}}.
        facts_at: changes of the facts at every update of the diagnosis.
        boundaries: steps after which a task started.
    """

    digest: str
    name: str
    status: str
    seconds: float = 0.0
    truth: Mapping[str, Any] = field(default_factory=dict)
    tail: str = ""
    steps: int = 0
    overhead: float | None = None
    failed: tuple[str, ...] = ()
    live: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    first: tuple[str, ...] = ()
    series: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    facts_at: tuple[Mapping[str, Any], ...] = ()
    boundaries: tuple[int, ...] = ()

    def stored(self) -> StoredRun:
        """The form that the replay reads."""
        return StoredRun(self.name, 0, boundaries=self.boundaries, series=self.series, facts_at=self.facts_at)

    def judged(self, conditions: Sequence[Condition] | None = None) -> Result:
        """The same with the findings of the current rules on the stored readings."""
        events: list[tuple[int, str, str]] = []
        last: list[Finding] = []
        for step, last in updates(self.stored(), conditions):
            events += [(step, f.condition, f.severity) for f in last]
        standing = tuple(f.condition for f in last if f.severity != "info")
        return replace(self, live=raised(events), first=standing)


def raised(events: Iterable[tuple[int, str, str]]) -> dict[str, list[Any]]:
    """Condition -> [step at which it was first above "info", worst severity], from (step, condition, severity)."""
    found: dict[str, list[Any]] = {}
    for step, condition, severity in events:
        entry = found.setdefault(condition, [None, severity])
        if severity != "info" and entry[0] is None:
            entry[0] = step
        entry[1] = max(entry[1], severity, key=SEVERITIES.index)
    return found


class Store:
    """Results by digest, in a file to which results are appended."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        folder.mkdir(parents=True, exist_ok=True)

    def __iter__(self) -> Iterator[Result]:
        if not self._file.exists():
            return
        with self._file.open() as file:
            for line in file:
                if line.endswith("\n"):  # the last line may be incomplete
                    yield _result(json.loads(line))

    def add(self, result: Result) -> None:
        """Append one result."""
        with self._file.open("a") as file:
            file.write(json.dumps(asdict(result), separators=(",", ":")) + "\n")


def _result(data: Mapping[str, Any]) -> Result:
    tuples = {k: tuple(data[k]) for k in ("failed", "first", "facts_at", "boundaries")}
    return Result(**{**data, **tuples})
