"""Thresholds of conditions: knobs with the way they were set, and the factor by which they are relaxed for clearing.

The value of a `limit` is in the condition. A `measured` threshold has a grid in the condition; its value, chosen by the
corpus of healthy runs, is in `thresholds.json`, under the names of condition and setting.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from homeostat.core.component import Knob

EARLY_NOTICE = "policy: an early notice below the warning; it may appear on healthy runs"


_UNMEASURED = {"how": "not measured yet: the most sensitive value of the grid"}


@dataclass(frozen=True)
class Measured:
    """A threshold whose value is in `thresholds.json`.

    Args:
        grid: values to choose from, from sensitive to insensitive.
        vital: the vital that a run must have for it; "" for the first that the condition reads.
        ease: factor to the value at which the network is clearly healthy again.
        low, high, unit: like those of a knob.
    """

    grid: tuple[float, ...]
    vital: str = ""
    ease: float = 1.0
    low: float = 0.0
    high: float = 1e30
    unit: str = ""

    def field(self, condition: str, name: str) -> Any:
        """The dataclass field, with the measured value as its default, or with the first of the grid before that."""
        entry = thresholds().get(condition, {}).get(name, _UNMEASURED | {"value": self.grid[0]})
        return _field(float(entry["value"]), entry["how"], self.ease, self.low, self.high, self.unit, self)


def limit(value: float, how: str, *, ease: float = 1.0, low: float = 0.0, high: float = 1e30, unit: str = "") -> Any:
    """A threshold with its value here, and how that was set: a policy, or a source."""
    return _field(float(value), how, ease, low, high, unit)


def measured(grid: Iterable[float], **settings: Any) -> Any:
    """A threshold whose value the corpus of healthy runs chose from a grid; settings as of `Measured`."""
    return Measured(tuple(float(value) for value in grid), **settings)


def _field(
    value: float, how: str, ease: float, low: float, high: float, unit: str, chosen: Measured | None = None
) -> Any:
    metadata = {"knob": Knob(low, high, None, unit, how), "ease": ease, "measured": chosen}
    return dataclasses.field(default=value, metadata=metadata)


@cache
def thresholds() -> dict[str, dict[str, dict[str, Any]]]:
    """condition -> threshold -> {"value", "how", "corpus"} of the measured ones, as in `thresholds.json`."""
    text = resources.files("homeostat.diagnosis").joinpath("thresholds.json").read_text(encoding="utf-8")
    return json.loads(text)["conditions"]
