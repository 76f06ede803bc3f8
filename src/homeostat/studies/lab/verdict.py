"""Computes a verdict from effects paired by seed: intervals, judgements, and the verdict file.

An effect is one number per seed, computed from the arms that ran with that seed. One primary expectation (at most two)
decides; the others are reported and never change the verdict. Its mean effect gets an interval that may be looked at
after every block of seeds (see `sequential`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from homeostat.core.atomic_file import write_text
from homeostat.core.errors import BadInput
from homeostat.studies.lab.expectation import Difference, Effect, Expectation, Measure, Measures, Precondition, number
from homeostat.studies.lab.robust import improvement_with_interval, middle_with_interval
from homeostat.studies.lab.sequential import repeated_interval, t_interval

HOLDS, FAILS, OPEN, ABSENT = "holds", "does not hold", "inconclusive", "not shown here"
BOUNDED = "no effect larger than"
"""Beginning of the verdict at the largest number of seeds, if a larger effect is excluded; the number follows."""

RULE = "one primary expectation, blocks of seeds"
"""The rule of the verdicts that are made now. Files without one are of the earlier rule: all expectations must hold."""

LEVEL = 0.95


@dataclass(frozen=True)
class Judged:
    """An expectation with its result.

    Args:
        effect: mean over the seeds.
        interval: of the mean, valid at every look.
        per_seed: the effect of each seed, in the order of the seeds.
        verdict: "holds" (interval above the threshold), "does not hold" (below it), "no effect larger than X" (at the
            largest number of seeds) or "inconclusive".
        role: "primary", "secondary" or "precondition".
        middle: interquartile mean of the effects, {"value", "interval"}.
        improvement: probability that a run of the treated arm is above one of the control, {"value", "interval"}; None
            if the effect is not a `difference`.
    """

    says: str
    threshold: float
    effect: float
    interval: tuple[float, float]
    per_seed: tuple[float, ...]
    verdict: str
    role: str = "secondary"
    margin: float = 0.0
    middle: dict[str, Any] | None = None
    improvement: dict[str, Any] | None = None


@dataclass(frozen=True)
class Verdict:
    """The outcome of a study; `to_json` gives the content of a verdict file.

    The headline of the file (expectation, effect, interval, threshold) is the deciding expectation: the primary one, of
    two the one whose verdict is the study's; a precondition that fails decides before any judged seed is run.

    Args:
        per_seed: seed -> arm -> measures.
        because: why the primary expectation is the primary one.
        preconditions: judged on the development seeds.
        tuning_log: arm -> settings that were tried, their scores, and the chosen one, as the harness recorded them.
        changed: what was changed since the last verdict, and why.
        history: the headlines of the verdicts that this one replaces, oldest first: date, rule, seeds, verdict,
            expectation, effect, interval, threshold.
        settings: of the study, and the sizes of the budget.
        code: fingerprint of the source code of the runs.
        method_code: of the study, its laboratory and its components alone.
        wall_seconds: time of this invocation, which may have reused finished runs.
        run_seconds: total time of all runs, those on development seeds included, one thread each.
        processor_seconds: total processor time of all runs; a busy machine hardly changes it.
    """

    study: str
    claim: str
    verdict: str
    expectations: tuple[Judged, ...]
    arms: dict[str, dict[str, Any]]
    seeds: tuple[int, ...]
    per_seed: dict[str, dict[str, dict[str, Measure]]]
    budget: str
    rule: str = RULE
    because: str = ""
    preconditions: tuple[Judged, ...] = ()
    development_seeds: tuple[int, ...] = ()
    changed: str = ""
    history: tuple[dict[str, Any], ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    tuning: str = ""
    tuning_log: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    code: str = ""
    method_code: str = ""
    command: str = ""
    date: str = ""
    wall_seconds: float = 0.0
    run_seconds: float = 0.0
    processor_seconds: float = math.nan

    @property
    def deciding(self) -> Judged:
        """The deciding expectation."""
        if self.verdict == ABSENT:
            return next(j for j in self.preconditions if j.verdict != HOLDS)
        primary = [j for j in self.expectations if j.role == "primary"] or list(self.expectations)
        return next((j for j in primary if j.verdict == self.verdict), primary[0])

    @property
    def reservations(self) -> tuple[str, ...]:
        """The secondary expectations that do not hold or are open; they do not change the verdict."""
        return tuple(f"{j.says}: {j.verdict}" for j in self.expectations if j.role != "primary" and j.verdict != HOLDS)

    def to_json(self) -> dict[str, Any]:
        """The documented JSON form; NaN and infinite values are null."""
        one = self.deciding
        short = {
            "expectation": one.says,
            "effect": one.effect,
            "interval": list(one.interval),
            "threshold": one.threshold,
        }
        data = asdict(self)
        head = {key: data.pop(key) for key in ("study", "claim", "verdict", "rule")}
        return _plain({**head, **short, **data})


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95% Student t interval of the mean at a number of seeds that was fixed beforehand."""
    return t_interval(values, LEVEL)


def judge(
    expectation: Expectation, by_seed: Mapping[int, Mapping[str, Measures]], primaries: int = 1, last: bool = False
) -> Judged:
    """Judge one expectation by the measures of one look.

    Args:
        by_seed: seed -> arm -> measures.
        primaries: number of primary expectations of the study, which share the error.
        last: whether this is the look at the largest number of seeds.
    """
    effects = tuple(float(expectation.effect(arms)) for arms in by_seed.values())
    low, high = repeated_interval(effects, primaries if expectation.primary else 1)
    bound = expectation.threshold + expectation.margin
    seen = HOLDS if low > expectation.threshold else FAILS if high < expectation.threshold else OPEN
    if seen == OPEN and last and expectation.margin > 0 and high < bound:
        seen = f"{BOUNDED} {bound:g}"
    role = "primary" if expectation.primary else "secondary"
    mean = _mean(effects)
    return Judged(expectation.says, expectation.threshold, mean, (low, high), effects, seen, role, expectation.margin)


def judge_precondition(precondition: Precondition, by_seed: Mapping[int, Mapping[str, Measures]]) -> Judged:
    """Judge a precondition by the measures of the development seeds, with a 95% Student t interval."""
    effects = tuple(float(precondition.effect(arms)) for arms in by_seed.values())
    low, high = interval(effects)
    seen = HOLDS if low > precondition.threshold else FAILS if high < precondition.threshold else OPEN
    return Judged(precondition.says, precondition.threshold, _mean(effects), (low, high), effects, seen, "precondition")


def with_robust(found: Judged, effect: Effect, by_seed: Mapping[int, Mapping[str, Measures]]) -> Judged:
    """The result with interquartile mean, and for a `difference` the probability of improvement."""
    if len(found.per_seed) < 2:
        return found
    improvement = None
    if isinstance(effect, Difference):
        arms = (effect.treated, effect.control)
        pairs = [[number(row[arm], effect.measure) for row in by_seed.values()] for arm in arms]
        improvement = improvement_with_interval(*pairs)
    return replace(found, middle=middle_with_interval(found.per_seed), improvement=improvement)


def overall(judged: Sequence[Judged]) -> str:
    """The verdict of the primary expectations: all must hold, and one that does not decides.

    With two that are undecided, an excluded effect of either is told: the claim needs both.
    """
    seen = [j.verdict for j in judged if j.role == "primary"]
    if not seen or all(verdict == HOLDS for verdict in seen):
        return HOLDS if seen else OPEN
    return FAILS if FAILS in seen else next((v for v in seen if v.startswith(BOUNDED)), OPEN)


def write(verdict: Verdict, path: Path) -> None:
    """Write a verdict file atomically.

    Raises:
        BadInput: the folder cannot be written to.
    """
    text = json.dumps(verdict.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        write_text(path, text)
    except OSError as error:
        raise BadInput(f"cannot write the verdict to {path}: {error}; choose another place with --out FILE") from error


def history(path: Path) -> tuple[dict[str, Any], ...]:
    """The history of a verdict file and its own headline, oldest first; () if there is no file."""
    if not path.is_file():
        return ()
    old = json.loads(path.read_text("utf-8"))
    kept = ("date", "rule", "verdict", "expectation", "effect", "interval", "threshold", "seeds")
    return (*old.get("history", ()), {key: old.get(key) for key in kept})


def _mean(effects: Sequence[float]) -> float:
    return float(np.mean(effects)) if effects else math.nan


def _plain(value: Any) -> Any:
    """JSON-compatible values, rounded to seven significant digits."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value
