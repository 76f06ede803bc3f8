"""Intervals that may be looked at after every block of seeds, with an error stated over all looks together.

Judged seeds come in blocks of 10, up to 100, so there are at most 10 looks. At each look the mean effect gets a Student
t interval at a fixed, stricter level (Pocock's boundary, for t statistics). All ten intervals of a study together cover
the true mean with the stated probability, so it does not matter at which look the study stops.

The nominal error of one look was found by simulation with normal effects. `python benchmarks/verdict_coverage.py`
repeats it, and simulates the coverage for other distributions; docs/studies.md shows the figures.

Source: Pocock (1977), Biometrika 64; Jennison and Turnbull (1989), J. R. Stat. Soc. B 51, repeated confidence
intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from homeostat.core.errors import BadInput

BLOCK, MOST = 10, 100
"""Seeds of a block, and the largest number of seeds."""

ERROR = 0.05
"""Error over all looks and all primary expectations of a study."""

NOMINAL = {1: 0.0106, 2: 0.0052}
"""Number of primary expectations -> error of the interval of one look, two-sided."""


def looks(most: int = MOST) -> tuple[int, ...]:
    """Numbers of seeds at which a study is looked at.

    >>> looks(30)
    (10, 20, 30)
    >>> looks(4)
    (4,)
    """
    return (*range(BLOCK, most, BLOCK), most)


def repeated_interval(values: Sequence[float], primaries: int = 1) -> tuple[float, float]:
    """Interval of the mean at one look. Unbounded for fewer than two values, NaN if a value is missing.

    Args:
        primaries: number of primary expectations that share the error: 1 or 2.

    Raises:
        BadInput: scipy is not installed.
    """
    return t_interval(values, 1 - NOMINAL[primaries])


def t_interval(values: Sequence[float], level: float) -> tuple[float, float]:
    """Student t interval of the mean. Unbounded for fewer than two values, NaN if a value is missing.

    Raises:
        BadInput: scipy is not installed.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise BadInput("studies need scipy: pip install 'homeostat[studies]'") from error
    x = np.asarray(values, dtype=np.float64)
    if not np.isfinite(x).all():
        return math.nan, math.nan
    if len(x) < 2:
        return -math.inf, math.inf
    reach = float(stats.t.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return float(x.mean()) - reach, float(x.mean()) + reach
