"""Judges stored vitals again: gives the findings of the run without training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast, get_args, get_origin, get_type_hints

from homeostat.core.finding import SEVERITIES, Finding
from homeostat.diagnosis.condition import Condition
from homeostat.diagnosis.diagnostician import Diagnostician
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import History


@dataclass(frozen=True)
class StoredRun:
    """The vitals of a run, in a compact form for JSON.

    Args:
        name, seed: of the run.
        expected: conditions that must be found; empty for a healthy run.
        facts: `Facts.to_json()` at the end of the run.
        boundaries: steps after which a new task started.
        series: vital -> {"steps": [n], "layers": {layer: [n] or one number for a constant series}}, or, where layers
            were read at different steps, {"points": {layer: [steps, values]}}.
        facts_at: the facts as they were at each update of the diagnosis, from `changes_of`; empty where only those of
            the end are known.
    """

    name: str
    seed: int
    expected: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    boundaries: Sequence[int] = ()
    series: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    facts_at: Sequence[Mapping[str, Any]] = ()

    def rows(self) -> list[tuple[int, str, str, float | None]]:
        """(step, vital, layer, value), in order of steps."""
        found: list[tuple[int, str, str, float | None]] = []
        for vital, entry in self.series.items():
            for layer, (steps, values) in entry.get("points", {}).items():
                found += [(int(s), vital, layer, v) for s, v in zip(steps, values, strict=True)]
            for layer, values in entry.get("layers", {}).items():
                laid = cast(list[float | None], values if isinstance(values, list) else [values] * len(entry["steps"]))
                found += [(int(s), vital, layer, v) for s, v in zip(entry["steps"], laid, strict=True)]
        return sorted(found, key=lambda row: row[0])


def stored_facts(data: Mapping[str, Any]) -> Facts:
    """The facts that `Facts.to_json` described; what they do not have any more is left out."""
    return _built(Facts, data)


def _built(kind: Any, value: Any) -> Any:
    """A value of this type from its JSON form."""
    arguments = get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        return cast(Any, kind)(**{name: _built(hints[name], v) for name, v in value.items() if name in hints})
    if get_origin(kind) is tuple:
        kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else arguments
        return tuple(_built(one, v) for one, v in zip(kinds, value, strict=True))
    if get_origin(kind) is Mapping:
        return {name: _built(arguments[1], v) for name, v in value.items()}
    return value


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def changes_of(facts: Sequence[Facts]) -> list[dict[str, Any]]:
    """One entry for each of them: the values that differ from the entry before, by path ("loss.labels.order")."""
    known: dict[str, Any] = {}
    changes: list[dict[str, Any]] = []
    for one in facts:
        flat = _flat(one, one.to_json())
        changes.append({k: v for k, v in flat.items() if k not in known or repr(known[k]) != repr(v)})
        known |= flat
    return changes


def _flat(facts: Any, data: Mapping[str, Any], group: str = "") -> dict[str, Any]:
    """Path -> JSON value of every field; fields that are dataclasses are groups."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        inner = getattr(facts, name)
        found |= _flat(inner, value, f"{group}{name}.") if dataclasses.is_dataclass(inner) else {group + name: value}
    return found


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_flat`."""
    found: dict[str, Any] = {}
    for path, value in flat.items():
        *groups, name = path.split(".")
        place = found
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return found


def updates(run: StoredRun, conditions: Sequence[Condition] | None = None) -> Iterator[tuple[int, list[Finding]]]:
    """(step, findings) of every update of the diagnosis, from the facts as they were then."""
    history, diagnostician, known = History(), Diagnostician(conditions), dict[str, Any]()
    boundaries, rows, at = list(run.boundaries), run.rows(), 0
    for changes in run.facts_at:
        known |= changes
        facts = stored_facts(_nested(known))
        while at < len(rows) and (rows[at][0] <= facts.steps or facts.ended):
            while boundaries and boundaries[0] < rows[at][0]:
                history.boundary(boundaries.pop(0))
            history.add(*rows[at])
            at += 1
        yield facts.steps, diagnostician.update(history, facts)


def replay(run: StoredRun, conditions: Sequence[Condition] | None = None) -> dict[str, Finding]:
    """Condition -> the finding at its worst over the whole run."""
    history, diagnostician, facts = History(), Diagnostician(conditions), stored_facts(run.facts)
    boundaries, worst, rows = list(run.boundaries), dict[str, Finding](), run.rows()
    for index, row in enumerate(rows):
        while boundaries and boundaries[0] < row[0]:
            history.boundary(boundaries.pop(0))
        history.add(*row)
        last = index + 1 == len(rows)
        if last or rows[index + 1][0] > row[0]:
            now = dataclasses.replace(facts, steps=facts.steps if last else row[0], ended=last)
            for finding in diagnostician.update(history, now):
                worst[finding.condition] = _worse(worst.get(finding.condition), finding)
    if not rows:
        worst = {f.condition: f for f in diagnostician.update(history, dataclasses.replace(facts, ended=True))}
    return worst


def _worse(first: Finding | None, second: Finding) -> Finding:
    if first is None or SEVERITIES.index(second.severity) > SEVERITIES.index(first.severity):
        return second
    return first
