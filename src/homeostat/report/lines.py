"""Which lines a chart shows, and with how many points. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from homeostat.record.reader import Points

MOST_POINTS = 2000
FEWEST_POINTS = 60
PAGE_POINTS = 300_000
"""Points on the whole page: about 5 MB of text."""


def points_per_line(lines: int) -> int:
    """How many points a line may have on a page of so many lines."""
    return max(FEWEST_POINTS, min(MOST_POINTS, PAGE_POINTS // max(lines, 1)))


def thinned(points: Points, most: int) -> Points:
    """At most `most` points with the first, the last, and the smallest and largest of every stretch kept.

    The line is cut into equal stretches of points; of each, the extremes stay where they are, in order. A stretch
    that holds a missing value keeps one, so that gaps stay visible.
    """
    if len(points) <= most:
        return points
    stretches = max(1, (most - 2) // 3)
    kept = {0, len(points) - 1}
    for block in np.array_split(np.arange(len(points)), stretches):
        values = np.array([math.nan if points[i][1] is None else points[i][1] for i in block], dtype=float)
        missing = np.isnan(values)
        if missing.any():
            kept.add(int(block[missing.argmax()]))
        if not missing.all():
            kept |= {int(block[np.nanargmin(values)]), int(block[np.nanargmax(values)])}
    return [points[i] for i in sorted(kept)]


def worst_first(layers: Mapping[str, Points], worse: str, named: Collection[str] = ()) -> list[str]:
    """Layers in the order in which a reader needs them.

    Layers that a finding names come first, then the sickest by the median of their last five values in the direction
    `worse` ("neither": the one that moved most), those without a value last; ties keep the network's order.
    """

    def key(layer: str) -> tuple[bool, float]:
        values = [v for _, v in layers[layer] if v is not None]
        return layer not in named, _badness(values, worse)

    return sorted(layers, key=key)


def _badness(values: Sequence[float], worse: str) -> float:
    if not values:
        return math.inf
    late, early = float(np.median(values[-5:])), float(np.median(values[:5]))
    if worse == "higher":
        return -late
    if worse == "lower":
        return late
    return -abs(late - early) if math.isfinite(late - early) else -math.inf


def decades(layers: Mapping[str, Points]) -> float:
    """How many powers of ten the values span; 0 when too many would be lost on a logarithmic axis (zero, negative).

    The smallest 2% of the values do not count: one vanishing value must not turn the axis.
    """
    values = np.array([v for line in layers.values() for _, v in line if v is not None and math.isfinite(v)])
    positive = values[values > 0]
    if positive.size < 2 or (values < 0).any() or (values == 0).mean() > 0.2:
        return 0.0
    low, high = np.quantile(np.log10(positive), [0.02, 1.0])
    return float(high - low)


def binned(steps: Sequence[int], texts: Sequence[str], last: int, most: int = 120) -> list[tuple[float, str]]:
    """At most `most` marks: those that would lie on each other become one that says what it stands for."""
    width = max(1.0, (last + 1) / most)
    cells: dict[int, list[int]] = {}
    for i, step in enumerate(steps):
        cells.setdefault(int(step / width), []).append(i)
    marks = []
    for members in cells.values():
        at = [steps[i] for i in members]
        said = [f"step {steps[i]:,}: {texts[i]}" for i in members[:3]]
        if len(members) > 3:
            said.append(f"and {len(members) - 3} more up to step {max(at):,}")
        marks.append((sum(at) / len(at) if len(at) > 1 else at[0], "\n".join(said)))
    return marks
