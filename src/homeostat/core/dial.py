"""Dials and gauges: numbers of the user's program that controllers set and read, in addition to knobs and vitals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from homeostat.core.errors import BadInput, BadSetting

LEARNING_RATE = "lr"
"""The dial of every run: the learning rate of the user's optimizer."""

Gauge = Callable[[], Any]
"""Function that returns a number (float or 0-dim tensor), or NaN or None if there is none."""


@dataclass(frozen=True)
class Dial:
    """A number of the user's program that may be changed during the run.

    Args:
        get: returns the current value.
        set: sets the value; called with finite numbers in [low, high] only.
        low, high: closed range.
        unit: unit of the number.

    Raises:
        BadInput: `get` or `set` cannot be called.
        BadSetting: the range is empty or not a number.

    >>> settings = {"ratio": 0.5}
    >>> dial = Dial(lambda: settings["ratio"], lambda value: settings.update(ratio=value), low=0.25, high=4.0)
    >>> dial.turn(8.0), settings
    (4.0, {'ratio': 4.0})
    """

    get: Callable[[], Any]
    set: Callable[[float], Any]
    low: float = -math.inf
    high: float = math.inf
    unit: str = ""

    def __post_init__(self) -> None:
        if not (callable(self.get) and callable(self.set)):
            raise BadInput("a dial takes two functions: get() returns its value, set(value) changes it")
        if not self.low <= self.high:
            raise BadSetting(f"a dial's low ({self.low!r}) must not be above its high ({self.high!r})")

    def read(self) -> float | None:
        """The current value, or None if there is none."""
        return number(self.get())

    def turn(self, value: float) -> float:
        """Set the nearest value in range, and return it.

        Raises:
            BadSetting: the value is not a finite number; nothing is changed.
        """
        if not math.isfinite(value):
            raise BadSetting(f"a dial cannot be set to {value!r}")
        limited = min(max(float(value), self.low), self.high)
        self.set(limited)
        return limited


def number(value: Any) -> float | None:
    """A reading as a finite number, or None if it is missing."""
    found = None if value is None else float(value)
    return found if found is not None and math.isfinite(found) else None


def check_names(kind: str, given: Mapping[Any, Any], taken: Mapping[str, str], wanted: Callable[[Any], bool]) -> None:
    """Check named dials or gauges before a run begins.

    Args:
        kind: "dial" or "gauge".
        taken: names that are already used -> what for.
        wanted: whether a value is of the kind.

    Raises:
        BadInput: a name is empty, taken, or contains ".", "@", ":" or ","; or a value is of another kind.
    """
    for name, value in given.items():
        if not isinstance(name, str) or not name or set(name) & set(".@:,= "):
            raise BadInput(f"a {kind} needs a name without spaces and . @ : , = (like replay-ratio), got {name!r}")
        if name in taken:
            raise BadInput(f"{name!r} is {taken[name]}: give the {kind} another name")
        if not wanted(value):
            raise BadInput(f"{kind} {name!r} is a {type(value).__name__}; see homeostat.core.dial.{kind.capitalize()}")
