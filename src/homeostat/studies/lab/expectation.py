"""What a study expects: effects of one seed, the expectations about their mean, and preconditions.

This module is part of the code of every study. How expectations are judged is in `verdict`, on which no run depends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

Measure = float | list[float]
Measures = Mapping[str, Measure]
"""Measures of one run: name -> number, or a series of numbers."""

Effect = Callable[[Mapping[str, Measures]], float]
"""Function from the measures of every arm under one seed to the effect of that seed."""


@dataclass(frozen=True)
class Expectation:
    """A statement about the mean effect: it is above the threshold.

    Args:
        says: one sentence, with the numbers.
        effect: effect of one seed; positive values support the claim. Create it with `difference`, `fall` or a
            function.
        threshold: value that the mean effect must exceed.
        primary: whether it decides the verdict. A study has one or two primary expectations.
        margin: of a primary expectation, stated beforehand: an effect smaller than threshold + margin would not matter.
            If the claim is undecided at the largest number of seeds and larger effects are excluded, the verdict says
            so.
    """

    says: str
    effect: Effect
    threshold: float = 0.0
    primary: bool = False
    margin: float = 0.0


@dataclass(frozen=True)
class Precondition:
    """What must be there before a cure can be tested: the mean effect over development seeds is above the threshold.

    Args:
        says: one sentence, with the numbers.
        effect: effect of one seed, from the arms below alone.
        threshold: value that the mean effect must exceed.
        arms: the arms that are run for it. The cure is not one of them.
    """

    says: str
    effect: Effect
    threshold: float = 0.0
    arms: tuple[str, ...] = ("plain",)


@dataclass(frozen=True)
class Difference:
    """Effect: the measure of one arm minus that of another, same seed."""

    treated: str
    control: str
    measure: str

    def __call__(self, arms: Mapping[str, Measures]) -> float:
        return number(arms[self.treated], self.measure) - number(arms[self.control], self.measure)


def difference(treated: str, control: str, measure: str) -> Difference:
    """Effect: the measure of one arm minus that of another, same seed."""
    return Difference(treated, control, measure)


def primary(expectations: Sequence[Expectation], *says: str, margin: float) -> tuple[Expectation, ...]:
    """The expectations, with those that decide marked as primary.

    Args:
        says: beginnings of the sentences of the primary expectations.
        margin: see `Expectation`.

    Raises:
        ValueError: a beginning fits no expectation, or several.
    """
    marked = list(expectations)
    for start in says:
        (place,) = (i for i, e in enumerate(marked) if e.says.startswith(start))
        marked[place] = replace(marked[place], primary=True, margin=margin)
    return tuple(marked)


def fall(arm: str, early: str, late: str) -> Effect:
    """Effect: decrease of a measure from early to late within one arm."""
    return lambda arms: number(arms[arm], early) - number(arms[arm], late)


def number(measures: Measures, name: str) -> float:
    """A measure that is a single number."""
    value = measures[name]
    if isinstance(value, list):
        raise TypeError(f"measure {name!r} is a series, not a number")
    return float(value)
