"""Early-warning statistics of a loss of stability in a series.

Near a tipping point a system returns to equilibrium more and more slowly, so its variance and its lag-1 autocorrelation
grow. Usually such a statistic is computed in a rolling window, and a rise, measured by Kendall's tau, counts as a
warning. The study `ews-prosecutor` tests this for runs selected because they collapsed. `stability_model` fits a model
instead.

All functions are pure. They take evenly sampled arrays [*R, n] without missing values, oldest first, and accept leading
axes. Unknown values are NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType

import numpy as np

from homeostat.core.errors import BadInput, BadSetting, UnknownName
from homeostat.diagnosis.history import Array
from homeostat.diagnosis.trends import kendall

Statistic = Callable[[Array], Array]
"""Function from a window [*R, w] to a number [*R]."""


def variance(window: Array) -> Array:
    """Unbiased variance [*R] of a window [*R, w], in squared units of the series; NaN for fewer than 2 values."""
    size = window.shape[-1]
    return np.var(window, axis=-1, ddof=1) if size > 1 else np.full(window.shape[:-1], math.nan)


def autocorrelation(window: Array) -> Array:
    """Lag-1 autocorrelation [*R] in -1..1: sum of products of neighbouring deviations over the sum of squares.

    NaN for fewer than 3 values or a constant window. This is the estimator of R's `acf`, which is biased towards
    -1/w in short windows; its trend is not.
    """
    centred = window - window.mean(axis=-1, keepdims=True)
    return _ratio((centred[..., 1:] * centred[..., :-1]).sum(-1), _power(centred), window)


def return_rate(window: Array) -> Array:
    """Return rate per sample [*R], -log(autocorrelation) (Ornstein-Uhlenbeck): large is stable, 0 is critical.

    NaN if the autocorrelation is not positive: the return is then faster than the sampling, or overshoots.
    """
    a = autocorrelation(window)
    return -np.log(np.where(a > 0, a, math.nan))


def skewness(window: Array) -> Array:
    """Third standardised moment [*R] (population form); NaN for fewer than 3 values or a constant window."""
    centred = window - window.mean(axis=-1, keepdims=True)
    size = window.shape[-1]
    return _ratio((centred**3).sum(-1) / size, (_power(centred) / size) ** 1.5, window)


def _power(centred: Array) -> Array:
    return (centred * centred).sum(-1)


def _ratio(top: Array, bottom: Array, window: Array) -> Array:
    """top / bottom if the window varies by more than rounding, else NaN."""
    rounding = 1e-24 * window.shape[-1] * np.square(window).max(axis=-1, initial=0.0)
    known = (bottom > 0) & (np.ptp(window, axis=-1) ** 2 > rounding) & (window.shape[-1] > 2)
    return np.where(known, top / np.where(known, bottom, 1.0), math.nan)


STATISTICS: Mapping[str, Statistic] = MappingProxyType(
    {"variance": variance, "autocorrelation": autocorrelation, "return-rate": return_rate, "skewness": skewness}
)
"""Statistics for rolling windows. Before a tipping point the return rate falls; all others rise."""


def statistic(name: str) -> Statistic:
    """One of `STATISTICS`.

    Raises:
        UnknownName: there is no such statistic.
    """
    if name not in STATISTICS:
        raise UnknownName("early-warning statistic", name, STATISTICS)
    return STATISTICS[name]


def rolling(values: Array, window: int, name: str = "variance") -> Array:
    """A statistic in every full window: [*R, n] -> [*R, n - window + 1]; entry i is of values i .. i + window - 1.

    Raises:
        BadInput: the window is longer than the series.
        UnknownName: there is no such statistic.
    """
    measure, count = statistic(name), values.shape[-1] - window + 1
    if window < 1 or count < 1:
        raise BadInput(f"a rolling window of {window} values does not fit a series of {values.shape[-1]}")
    values = np.asarray(values, dtype=np.float64)
    found = [measure(values[..., i : i + window]) for i in range(count)]
    return np.stack(found, axis=-1)


def trend(values: Array, name: str = "variance", window: int | None = None) -> Array:
    """Kendall's tau of a rolling statistic: [*R, n] -> [*R]. The window is half the series unless given.

    Source of the half: Boettiger and Hastings (2012), arXiv:1210.1204, Methods; Dakos et al. (2008).
    """
    return kendall(rolling(values, window or values.shape[-1] // 2, name))


def detrended(values: Array, bandwidth: float = 0.2) -> Array:
    """The series minus its Gaussian-smoothed version: [*R, n] -> [*R, n].

    Args:
        values: the series, mirrored at both ends.
        bandwidth: as a share of the series; the kernel has its quartiles at +-0.25 bandwidths (R's `ksmooth`), so its
            standard deviation is 0.37 bandwidths.

    Raises:
        BadSetting: the bandwidth is not in (0, 1].
    """
    if not 0 < bandwidth <= 1:
        raise BadSetting(f"the bandwidth must be in (0, 1], got {bandwidth!r}")
    return values - values @ _smoother(values.shape[-1], bandwidth)


@cache
def _smoother(size: int, bandwidth: float) -> Array:
    """The matrix [n, n] that smooths a series when multiplied from the right."""
    sigma = 0.25 / 0.675 * bandwidth * size
    reach = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    mirrored = np.pad(np.eye(size), [(0, 0), (reach, reach)], mode="symmetric")
    rows: list[Array] = [np.convolve(row, kernel / kernel.sum(), "valid") for row in mirrored]
    return np.stack(rows)


@dataclass(frozen=True)
class RollingTrends:
    """Trends of rolling statistics, one value at a time, in constant memory.

    After each value the rolling statistics and their trends equal `rolling` and `trend` of the stored values. Adding a
    value costs one window; reading the trend costs `horizon` squared comparisons.

    Args:
        window: values in a rolling window.
        horizon: number of the latest statistics for the trend.
        names: names of the statistics.

    >>> watch = RollingTrends(window=4, horizon=8)
    >>> for value in (0, 1, 0, 2, 0, 3, 0, 4):
    ...     watch = watch.add(value)
    >>> watch.trends()["variance"] > 0.7
    True
    """

    window: int = 100
    horizon: int = 100
    names: tuple[str, ...] = ("variance", "autocorrelation", "return-rate")
    values: tuple[float, ...] = ()
    found: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])

    def __post_init__(self) -> None:
        if self.window < 3 or self.horizon < 2:
            raise BadSetting(
                f"a window of {self.window} and a horizon of {self.horizon} are too short (3 and 2 at least)"
            )
        for name in self.names:
            statistic(name)

    def add(self, value: float) -> RollingTrends:
        """The trends with one more value; a missing value changes nothing."""
        if math.isnan(value):
            return self
        values = (*self.values, float(value))[-self.window :]
        if len(values) < self.window:
            return RollingTrends(self.window, self.horizon, self.names, values, self.found)
        array = np.asarray(values)
        new = {n: (*self.found.get(n, ()), float(STATISTICS[n](array)))[-self.horizon :] for n in self.names}
        return RollingTrends(self.window, self.horizon, self.names, values, new)

    def latest(self) -> dict[str, float]:
        """The statistics of the newest full window; empty before there is one."""
        return {name: kept[-1] for name, kept in self.found.items()}

    def trends(self) -> dict[str, float]:
        """Kendall's tau of each statistic over the horizon; NaN with fewer than two windows."""
        return {name: float(kendall(np.asarray(self.found.get(name, ())))) for name in self.names}
