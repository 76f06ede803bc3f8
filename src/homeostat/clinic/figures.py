"""Rates from results: recall, precision, false alarms with upper bounds, lead times, and confusions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from homeostat.clinic.programs import TrainingProgram
from homeostat.clinic.store import Result
from homeostat.core.component import components

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Examined:
    """A program with its result.

    A program counts as sick or healthy only if what it printed confirms it (`Change.shows`). Others, and those that
    failed or printed nothing, are "unclear".
    """

    program: TrainingProgram
    result: Result

    @cached_property
    def clear(self) -> bool:
        """Whether the program printed what it was made for."""
        return bool(self.result.truth) and self.program.change.shows(self.result.truth)

    @property
    def label(self) -> str:
        """The condition that should be named: the first that exists; "" for a healthy program."""
        known = components("condition")
        names = self.program.change.names
        return next((n for n in names if n in known), names[0] if names else "")

    @cached_property
    def alarms(self) -> dict[str, int]:
        """Condition -> step at which it was first raised above "info"."""
        return {name: entry[0] for name, entry in self.result.live.items() if entry[0] is not None}

    @property
    def wrong(self) -> list[str]:
        """Conditions that were raised but neither name the fault nor follow from it."""
        change = self.program.change
        allowed = {*change.names, *change.also} if change.sick else set[str]()
        return [name for name in self.alarms if name not in allowed]

    @property
    def named(self) -> bool:
        """Whether a condition that names the fault was raised."""
        return any(name in self.alarms for name in self.program.change.names)

    @property
    def named_first(self) -> bool:
        """Whether the finding that is shown first names the fault. If there is none at the end, the one raised first
        counts."""
        order = list(self.result.first) or sorted(self.alarms, key=lambda name: self.alarms[name])
        return bool(order) and order[0] in self.program.change.names

    @property
    def lead(self) -> int | None:
        """Steps from the onset of the fault to its finding, None if unknown."""
        onset = self.result.truth.get("onset")
        steps = [self.alarms[n] for n in self.program.change.names if n in self.alarms]
        return None if onset is None or not steps else min(steps) - onset


def figures(cases: Sequence[Examined]) -> dict[str, Any]:
    """All counts, as JSON."""
    sick = [c for c in cases if c.clear and c.label]
    well = [c for c in cases if c.clear and not c.label]
    conditions = {name: _of_condition(name, sick, well) for name in sorted({c.label for c in sick})}
    scores = [row["f1"] for row in conditions.values()]
    found = [c for c in sick if c.alarms]
    return {
        "programs": {
            "sick": len(sick),
            "healthy": len(well),
            "unclear": len(cases) - len(sick) - len(well),
            "without an answer": sum(bool(c.result.failed) for c in cases),
        },
        "macro_f1": sum(scores) / len(scores) if scores else math.nan,
        "recall": rate(sum(c.label in c.alarms for c in sick), len(sick)),
        "detected": rate(len(found), len(sick)),
        "named_given_detected": rate(sum(c.named for c in found), len(found)),
        "named_first_given_detected": rate(sum(c.named_first for c in found), len(found)),
        "false_alarms": _false_alarms(well),
        "conditions": conditions,
    }


def _of_condition(name: str, sick: Sequence[Examined], well: Sequence[Examined]) -> dict[str, Any]:
    own = [c for c in sick if c.label == name]
    hits = sum(name in c.alarms for c in own)
    right = sum(name in c.alarms for c in sick if name in c.program.change.names)
    wrong = [c for c in (*sick, *well) if name in c.wrong]
    precision = right / (right + len(wrong)) if right + len(wrong) else math.nan
    recall = hits / len(own)
    both = precision + recall
    leads = sorted(lead for c in own if (lead := c.lead) is not None)
    return {
        "programs": len(own),
        "architectures": len({c.program.arch for c in own}),
        "exists": name in components("condition"),
        "recall": recall,
        "named": sum(c.named for c in own) / len(own),
        "named_first": sum(c.named_first for c in own) / len(own),
        "detected": sum(bool(c.alarms) for c in own) / len(own),
        "precision": precision,
        "f1": 2 * precision * recall / both if both > 0 else 0.0,
        "wrong_on_healthy": sum(name in c.wrong for c in well),
        "wrong_on_sick": sum(name in c.wrong for c in sick),
        "lead": median(leads) if leads else math.nan,
        "lead_worst": leads[-1] if leads else math.nan,
        "taken_for": dict(Counter(_shown(c) for c in own).most_common()),
    }


def _shown(case: Examined) -> str:
    order = list(case.result.first) or sorted(case.alarms, key=lambda name: case.alarms[name])
    return order[0] if order else "nothing"


def _false_alarms(well: Sequence[Examined]) -> dict[str, Any]:
    steps = sum(c.result.steps for c in well)
    count = sum(len(c.alarms) for c in well)
    return {
        "programs": rate(sum(bool(c.alarms) for c in well), len(well)),
        "alarms": count,
        "steps": steps,
        "per_1000_steps": 1000 * count / steps if steps else math.nan,
        "per_1000_steps_at_most": 1000 * poisson_bound(count) / steps if steps else math.nan,
        "by_condition": dict(Counter(name for c in well for name in c.alarms).most_common()),
    }


def rate(count: int, of: int) -> dict[str, Any]:
    """A share with its Clopper-Pearson interval (two-sided, 95%)."""
    low, high = clopper_pearson(count, of)
    return {"count": count, "of": of, "share": count / of if of else math.nan, "low": low, "high": high}


def clopper_pearson(count: int, of: int) -> tuple[float, float]:
    """The exact interval of a binomial share (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    if of == 0:
        return math.nan, math.nan
    tail = (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, count, of - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - tail, count + 1, of - count)) if count < of else 1.0
    return low, high


def poisson_bound(count: int) -> float:
    """Upper end of the exact interval of a Poisson count (two-sided, 95%; Garwood 1936)."""
    from scipy.stats import chi2

    return float(chi2.ppf(1 - (1 - CONFIDENCE) / 2, 2 * (count + 1)) / 2)


def weak(cases: Iterable[Examined]) -> dict[str, list[str]]:
    """Mistakes by kind, with the numbers and names of the programs."""
    found: dict[str, list[str]] = {}
    for case in cases:
        place = f"{case.program.number} {case.program.name}"
        if not case.clear:
            found.setdefault("unclear", []).append(f"{place} ({case.result.status})")
            continue
        if case.label and not case.named:
            shown = ", ".join(case.alarms) or "nothing"
            found.setdefault(f"missed {case.label}", []).append(f"{place}: {shown}")
        for name in case.wrong:
            kind = "on a sick program" if case.label else "on a healthy program"
            found.setdefault(f"wrong {name} {kind}", []).append(f"{place}: step {case.alarms[name]}")
    return dict(sorted(found.items()))
