"""Example histories of sick runs. A condition gives those that it must find; the laws run all conditions on all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

READINGS = 120
"""Readings of an example, at equal distances. A task boundary follows every tenth of them."""
LAYERS = ("fc.1", "fc.2")
TASK = "first task"

Point = tuple[str, str, float]
"""(vital, layer, value) of one reading."""
ExampleHistory = Callable[[float, float], Iterable[Point]]
"""(time in [0, 1], degree of the fault in [0, 1]) -> readings that replace the healthy ones. Degree 0 is healthy."""


def wobble(index: int, size: float) -> float:
    """A number in [-size, size] that looks random and is the same in every run."""
    return size * math.sin(12.9898 * index) * math.cos(4.1414 * index)
