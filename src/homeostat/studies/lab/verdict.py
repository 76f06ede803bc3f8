"""Computes a verdict from effects paired by seed: intervals, judgements, and the verdict file.

An effect is one number per seed, computed from the arms that ran with that seed. Its mean gets a 95% Student t
interval, which is the most accurate choice for few seeds. In simulations with 5 seeds (1,500 studies), it covers the
true mean 94% of the time for normal effects, 88% for skewed (exponential) and 97% for heavy-tailed ones (t with 3
degrees of freedom), where bootstrap intervals cover 83%, 78%, 82% (percentile) and 83%, 80%, 81% (BCa).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from homeostat.core.atomic_file import write_text
from homeostat.core.errors import BadInput

HOLDS, FAILS, OPEN = "holds", "does not hold", "inconclusive"
LEVEL = 0.95
FEWEST_SEEDS = 5

Measure = float | list[float]
Measures = Mapping[str, Measure]
"""Measures of one run: name -> number, or a series of numbers."""

Effect = Callable[[Mapping[str, Measures]], float]
"""Function from the measures of every arm under one seed to the effect of that seed."""


@dataclass(frozen=True)
class Expectation:
    """A condition for the claim: the mean effect is above the threshold.

    Args:
        says: one sentence, with the numbers.
        effect: effect of one seed; positive values support the claim. Create it with `difference`, `change` or a
            function.
        threshold: value that the mean effect must exceed.
    """

    says: str
    effect: Effect
    threshold: float = 0.0


@dataclass(frozen=True)
class Judged:
    """An expectation with its result.

    Args:
        effect: mean over the seeds.
        interval: 95% interval of the mean.
        per_seed: the effect of each seed, in the order of the seeds.
        verdict: "holds" (interval above the threshold), "does not hold" (below it) or "inconclusive".
    """

    says: str
    threshold: float
    effect: float
    interval: tuple[float, float]
    per_seed: tuple[float, ...]
    verdict: str


@dataclass(frozen=True)
class Verdict:
    """The outcome of a study; `to_json` gives the content of a verdict file.

    The headline of the file (expectation, effect, interval, threshold) is the deciding expectation: the first that
    failed, else the first that is inconclusive, else the first.

    Args:
        per_seed: seed -> arm -> measures.
        settings: of the study, and the sizes of the budget.
        code: fingerprint of the source code of the runs.
        wall_seconds: time of this invocation, which may have reused finished runs.
        run_seconds: total time of all runs, one thread each.
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
    settings: dict[str, Any] = field(default_factory=dict)
    tuning: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    code: str = ""
    command: str = ""
    date: str = ""
    wall_seconds: float = 0.0
    run_seconds: float = 0.0
    processor_seconds: float = math.nan

    @property
    def deciding(self) -> Judged:
        """The deciding expectation."""
        return next((j for j in self.expectations if j.verdict == self.verdict), self.expectations[0])

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
        head = {key: data.pop(key) for key in ("study", "claim", "verdict")}
        return _plain({**head, **short, **data})


def difference(treated: str, control: str, measure: str) -> Effect:
    """Effect: the measure of one arm minus that of another, same seed."""
    return lambda arms: number(arms[treated], measure) - number(arms[control], measure)


def fall(arm: str, early: str, late: str) -> Effect:
    """Effect: decrease of a measure from early to late within one arm."""
    return lambda arms: number(arms[arm], early) - number(arms[arm], late)


def number(measures: Measures, name: str) -> float:
    """A measure that is a single number."""
    value = measures[name]
    if isinstance(value, list):
        raise TypeError(f"measure {name!r} is a series, not a number")
    return float(value)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95% Student t interval of the mean. Unbounded for fewer than two values, NaN if a value is missing."""
    try:
        from scipy import stats
    except ImportError as error:
        raise BadInput("studies need scipy: pip install 'homeostat[studies]'") from error
    x = np.asarray(values, dtype=np.float64)
    if not np.isfinite(x).all():
        return math.nan, math.nan
    if len(x) < 2:
        return -math.inf, math.inf
    reach = float(stats.t.ppf(0.5 + LEVEL / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return float(x.mean()) - reach, float(x.mean()) + reach


def judge(expectation: Expectation, arms_by_seed: Mapping[int, Mapping[str, Measures]]) -> Judged:
    """Judge one expectation by the measures."""
    effects = tuple(float(expectation.effect(arms)) for arms in arms_by_seed.values())
    low, high = interval(effects)
    seen = HOLDS if low > expectation.threshold else FAILS if high < expectation.threshold else OPEN
    mean = float(np.mean(effects)) if effects else math.nan
    return Judged(expectation.says, expectation.threshold, mean, (low, high), effects, seen)


def overall(judged: Sequence[Judged]) -> str:
    """All hold: *holds*. Any clearly fails: *does not hold*. Otherwise *inconclusive*.

    Requiring all of them needs no correction for their number: a false "holds" must be false in the weakest one too.
    """
    seen = {j.verdict for j in judged}
    return FAILS if FAILS in seen else HOLDS if seen == {HOLDS} else OPEN


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


def _plain(value: Any) -> Any:
    """JSON-compatible values, rounded to seven significant digits."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value
