"""Lines as a row of characters. Pure."""

from __future__ import annotations

import numpy as np

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: np.ndarray, width: int = 24) -> str:
    """A line as at most `width` characters, from its lowest (▁) to its highest value (█).

    Each character stands for a stretch of values and shows the one that is farthest from the median, so that peaks
    stay. A stretch without a value is a space; infinite values are drawn as the highest or lowest.

    >>> sparkline(np.array([0.0, 1.0, 2.0, 3.0, float("nan"), 7.0]))
    '▁▂▃▄ █'
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return ""
    low, high, middle = float(known.min()), float(known.max()), float(np.median(known))
    drawn = ""
    for stretch in np.array_split(np.clip(values, low, high), min(width, len(values))):
        own = stretch[~np.isnan(stretch)]
        if not len(own):
            drawn += " "
            continue
        value = float(own[np.abs(own - middle).argmax()])
        share = 0.0 if high == low else value / (high - low) - low / (high - low)
        drawn += BARS[int(np.clip(round(share * (len(BARS) - 1)), 0, len(BARS) - 1))]
    return drawn
