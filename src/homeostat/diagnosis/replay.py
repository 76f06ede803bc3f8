"""Judging stored vitals again: the same findings as the run itself would have had, without training anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from homeostat.core.finding import SEVERITIES, Finding
from homeostat.diagnosis.condition import Condition
from homeostat.diagnosis.diagnostician import Diagnostician
from homeostat.diagnosis.facts import Facts, OptimizerFacts
from homeostat.diagnosis.history import History


@dataclass(frozen=True)
class StoredRun:
    """The vitals of a run, in a form that is small as JSON.

    Args:
        name, seed: which run.
        expected: conditions that a sick run must raise; empty for a healthy one.
        facts: `Facts.to_json()` at the end of the run.
        boundaries: steps after which a new task started.
        series: vital -> {"steps": [n], "layers": {layer: [n] or one number for a constant series}}.
    """

    name: str
    seed: int
    expected: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    boundaries: Sequence[int] = ()
    series: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def rows(self) -> list[tuple[int, str, str, float | None]]:
        """(step, vital, layer, value), in order of steps."""
        found = []
        for vital, entry in self.series.items():
            for layer, values in entry["layers"].items():
                laid = values if isinstance(values, list) else [values] * len(entry["steps"])
                found += [(int(s), vital, layer, v) for s, v in zip(entry["steps"], laid, strict=True)]
        return sorted(found, key=lambda row: row[0])


def stored_facts(data: Mapping[str, Any]) -> Facts:
    """The facts that `Facts.to_json` described."""
    known = {k: v for k, v in data.items() if k in Facts.__dataclass_fields__}
    lists = {k: tuple(v) for k, v in known.items() if isinstance(v, list)}
    optimizers = tuple(OptimizerFacts(**o) for o in known.get("optimizers", ()))
    return Facts(**{**known, **lists, "optimizers": optimizers})


def replay(run: StoredRun, conditions: Sequence[Condition] | None = None) -> dict[str, Finding]:
    """Condition -> the finding at its worst over the whole run."""
    history, doctor, facts = History(), Diagnostician(conditions), stored_facts(run.facts)
    boundaries, worst, rows = list(run.boundaries), {}, run.rows()
    for index, row in enumerate(rows):
        while boundaries and boundaries[0] < row[0]:
            history.boundary(boundaries.pop(0))
        history.add(*row)
        last = index + 1 == len(rows)
        if last or rows[index + 1][0] > row[0]:
            now = dataclasses.replace(facts, steps=facts.steps if last else row[0], ended=last)
            for finding in doctor.update(history, now):
                worst[finding.condition] = _worse(worst.get(finding.condition), finding)
    if not rows:
        worst = {f.condition: f for f in doctor.update(history, dataclasses.replace(facts, ended=True))}
    return worst


def _worse(first: Finding | None, second: Finding) -> Finding:
    if first is None or SEVERITIES.index(second.severity) > SEVERITIES.index(first.severity):
        return second
    return first
