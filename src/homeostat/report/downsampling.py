"""Order of the lines of a chart, and reduction of their points. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from homeostat.record.reader import Points

MOST_POINTS = 2000
FEWEST_POINTS = 60
PAGE_POINTS = 72_000
"""Maximum number of points on the page: about 1.2 MB of text, as much as its plotting library."""
MOST_LINES = PAGE_POINTS // FEWEST_POINTS
"""Maximum number of lines on the page."""


class Line(NamedTuple):
    """A vital of a layer as arrays of equal length: steps [n], and values [n], NaN where one is missing."""

    steps: np.ndarray
    values: np.ndarray


def as_line(points: Points) -> Line:
    """Points as arrays."""
    steps = np.fromiter((step for step, _ in points), dtype=np.int64, count=len(points))
    return Line(steps, np.array([value for _, value in points], dtype=float))


def values_of(line: Line | Points) -> np.ndarray:
    """Values of a line, NaN where one is missing."""
    return line.values if isinstance(line, Line) else np.array([value for _, value in line], dtype=float)


def points_per_line(lines: int) -> int:
    """Maximum number of points per line on a page with `lines` lines."""
    return max(FEWEST_POINTS, min(MOST_POINTS, PAGE_POINTS // max(lines, 1)))


def lines_per_chart(lines: int, charts: int) -> int:
    """Maximum number of lines per chart on a page with `lines` lines: all of them, as far as the page holds them."""
    return lines if lines <= MOST_LINES else max(12, MOST_LINES // max(charts, 1))


def thinned(points: Points, most: int) -> Points:
    """At most `most` points; see `kept`."""
    return [points[i] for i in kept(values_of(points), most)]


def kept(values: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` points: the first, the last, and all local extremes.

    The line is split into blocks of equal size. Each block keeps its minimum and its maximum in their places. A block
    with missing values keeps one of them, so that gaps stay visible.
    """
    if len(values) <= most:
        return np.arange(len(values))
    indices = {0, len(values) - 1}
    for block in np.array_split(np.arange(len(values)), max(1, (most - 2) // 3)):
        own = values[block]
        missing = np.isnan(own)
        if missing.any():
            indices.add(int(block[missing.argmax()]))
        if not missing.all():
            indices |= {int(block[np.nanargmin(own)]), int(block[np.nanargmax(own)])}
    return np.array(sorted(indices))


def worst_first(layers: Mapping[str, Line | Points], worse: str, named: Collection[str] = ()) -> list[str]:
    """Layers sorted by importance for the reader.

    Layers named by a finding come first. The others are sorted by the median of their last five values in the direction
    `worse` ("neither": by the size of the change). Layers without a value come last. Ties keep the network's order.
    """

    def key(layer: str) -> tuple[bool, float]:
        values = values_of(layers[layer])
        return layer not in named, _badness(values[~np.isnan(values)], worse)

    return sorted(layers, key=key)


def _badness(values: np.ndarray, worse: str) -> float:
    if not len(values):
        return math.inf
    with np.errstate(over="ignore", invalid="ignore"):
        late, early = float(np.median(values[-5:])), float(np.median(values[:5]))
    if worse == "higher":
        return -late
    if worse == "lower":
        return late
    return -abs(late - early) if math.isfinite(late - early) else -math.inf


def decades(layers: Mapping[str, Line | Points]) -> float:
    """Powers of ten that the values span; 0 if a logarithmic axis would hide too many (zero or negative values).

    The smallest 2% of the values are ignored, so that a single tiny value does not change the axis.
    """
    values = np.concatenate([np.empty(0), *(values_of(line) for line in layers.values())])
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if positive.size < 2 or (values < 0).any() or (values == 0).mean() > 0.2:
        return 0.0
    low, high = np.quantile(np.log10(positive), [0.02, 1.0])
    return float(high - low)


def binned(steps: Sequence[int], texts: Sequence[str], last: int, most: int = 120) -> list[tuple[float, str]]:
    """At most `most` marks. Overlapping marks are merged into one that lists its members."""
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
