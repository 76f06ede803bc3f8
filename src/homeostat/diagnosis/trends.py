"""Robust statistics of a series. All are pure, take arrays without missing values, and return NaN for too few."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from homeostat.diagnosis.history import Array

_PAIRS = 64


def thinned(values: Array, count: int = _PAIRS) -> Array:
    """At most `count` values, evenly spaced, ends included: bounds the pairwise statistics below."""
    if values.size <= count:
        return values
    return values[np.linspace(0, values.size - 1, count).round().astype(int)]


def median(values: Array) -> float:
    """Median, NaN if empty. A plain sort takes a tenth of the time of np.median on the few values of a window."""
    if not values.size:
        return math.nan
    ordered, middle = np.sort(values), values.size // 2
    if values.size % 2:
        return float(ordered[middle])
    return float(ordered[middle - 1]) / 2 + float(ordered[middle]) / 2  # the sum of two huge values overflows


@cache
def _pairs(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.triu_indices(count, 1)


def theil_sen(steps: Array, values: Array) -> float:
    """Median slope over all pairs of points, per step (Theil 1950, Sen 1968); long series are thinned evenly."""
    steps, values = thinned(steps), thinned(values)
    if values.size < 2:
        return math.nan
    first, second = _pairs(values.size)
    run = steps[second] - steps[first]
    rise = values[second] - values[first]
    return median(rise[run > 0] / run[run > 0])


def kendall(values: Array) -> Array:
    """Kendall's tau-a of a series against time: [*R, n] -> [*R] in -1..1.

    (rising pairs - falling pairs) / all pairs, over every pair of the n values; a tie counts as neither. NaN for fewer
    than 2 values, or where one is NaN. Values of a rolling statistic overlap, so the significance of independent
    values (`tau_limit`) does not apply to them: tau of a stationary series has a standard deviation of 0.3 to 0.5.
    """
    if values.shape[-1] < 2:
        return np.full(values.shape[:-1], math.nan)
    first, second = _pairs(values.shape[-1])
    return np.asarray(np.sign(values[..., second] - values[..., first]).mean(-1))


def kendall_tau(values: Array) -> float:
    """Kendall's tau-a of one series; long ones are thinned evenly."""
    return float(kendall(thinned(values)))


def tau_limit(count: int, z: float = 2.33) -> float:
    """|tau| that `count` values without any order exceed with one-sided probability of about 1% (z = 2.33)."""
    n = min(count, _PAIRS)
    return z * math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))) if n > 1 else math.inf


def spread(values: Array) -> float:
    """Robust standard deviation: 1.4826 times the median distance from the median."""
    return 1.4826 * median(np.abs(values - median(values))) if values.size else math.nan


def roughness(values: Array) -> float:
    """Standard deviation of a value around a smooth course, from second differences: a trend does not count.

    For independent noise of standard deviation s around a straight line it is s: the second difference has variance
    6 s^2. Robust: taken from the median size of the second differences.
    """
    if values.size < 3:
        return math.nan
    return 1.4826 * median(np.abs(np.diff(values, 2))) / math.sqrt(6)


def blocks(values: Array, count: int) -> Array:
    """Medians of `count` consecutive blocks of equal size, the first few values left out where it does not divide;
    empty when there are fewer values than blocks. A block of even size gives its upper median."""
    size = values.size // max(count, 1)
    if not size:
        return np.empty(0)
    return np.sort(values[values.size - count * size :].reshape(count, size), axis=1)[:, size // 2]
