"""Grids of which the gate runs a part."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def part_of(values: Iterable[Any], every: int = 2) -> list[Any]:
    """Parameters of which every second (or `every`-th) is run as usual, and the others by `make thorough` alone."""
    return [
        value if number % every == 0 else pytest.param(value, marks=pytest.mark.thorough)
        for number, value in enumerate(values)
    ]
