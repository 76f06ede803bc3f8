"""Interquartile mean and probability of improvement, with bootstrap intervals.

Single runs of reinforcement learning are often extreme, which moves a mean. Agarwal et al. therefore report the
interquartile mean and how often a run of one method beats a run of another.

Source: Agarwal, Schwarzer, Castro, Courville, Bellemare (2021), arXiv:2108.13264, and their library rliable. There
resampling is stratified by task; a study here has one task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
Numbers = NDArray[np.float64]


def interquartile_mean(values: Sequence[float] | Numbers) -> float:
    """Mean of the middle half of the values: floor(N / 4) are left out at either end.

    >>> interquartile_mean([0.0, 1.0, 2.0, 100.0])
    1.5
    """
    return float(_middle(np.asarray(values, dtype=np.float64)))


def probability_of_improvement(treated: Sequence[float], control: Sequence[float]) -> float:
    """Probability that a run of one arm is above a run of another; a tie counts one half.

    Args:
        treated, control: one number a run; all pairs of runs are compared.

    >>> probability_of_improvement([2.0, 3.0], [1.0, 2.0])
    0.875
    """
    return float(_wins(np.asarray(treated, dtype=np.float64), np.asarray(control, dtype=np.float64)))


def middle_with_interval(values: Sequence[float]) -> dict[str, Any]:
    """`interquartile_mean` with its 95% percentile interval over resampled runs."""
    x = np.asarray(values, dtype=np.float64)
    return _with_interval(float(_middle(x)), lambda pick: _middle(x[pick]), len(x), bool(np.isfinite(x).all()))


def improvement_with_interval(treated: Sequence[float], control: Sequence[float]) -> dict[str, Any]:
    """`probability_of_improvement` with its 95% percentile interval; seeds are resampled in pairs."""
    x, y = (np.asarray(v, dtype=np.float64) for v in (treated, control))
    finite = bool(np.isfinite(x).all() and np.isfinite(y).all())
    return _with_interval(float(_wins(x, y)), lambda pick: _wins(x[pick], y[pick]), len(x), finite)


def _with_interval(value: float, of: Callable[[Any], Numbers], count: int, finite: bool) -> dict[str, Any]:
    if not finite or count < 2:
        return {"value": value, "interval": [math.nan, math.nan]}
    rng = np.random.default_rng(0)
    drawn = [float(of(rng.integers(count, size=count))) for _ in range(RESAMPLES)]
    return {"value": value, "interval": [float(v) for v in np.percentile(drawn, (2.5, 97.5))]}


def _middle(x: Numbers) -> Any:
    cut = len(x) // 4
    return np.sort(x)[cut : len(x) - cut].mean()


def _wins(x: Numbers, y: Numbers) -> Any:
    above = x[:, None] > y[None, :]
    return (above + 0.5 * (x[:, None] == y[None, :])).mean()
