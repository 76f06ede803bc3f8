"""How made-up runs fall ill. A condition gives the courses that it is about; the laws check all conditions on all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

READINGS = 120
"""Readings of a made-up run, at even distances; there is a task boundary after every tenth of them."""
LAYERS = ("fc1", "fc2")
TASK = "first task"

Point = tuple[str, str, float]
"""(vital, layer, value) of one reading."""
Course = Callable[[float, float], Iterable[Point]]
"""(time in [0, 1], degree of illness in [0, 1]) -> readings in place of the healthy ones. Degree 0 is healthy."""


def wobble(index: int, size: float) -> float:
    """A number in [-size, size] that looks random and is always the same."""
    return size * math.sin(12.9898 * index) * math.cos(4.1414 * index)
