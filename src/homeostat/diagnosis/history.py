"""The history of a run: one bounded, append-only series per (vital, layer)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homeostat.core.errors import BadInput

Array = NDArray[np.float64]
_EMPTY = np.empty(0)
_HEAD = 16
STEP_SERIES = {
    "step-loss": ("The loss that backward was called on, at every step.", "loss"),
    "step-gradient-norm": ("Norm of all gradients, as the optimizer found them.", "norm"),
    "step-update-norm": ("Norm of what the optimizer changed, over all parameters.", "norm"),
    "step-learning-rate": ("Learning rate of the first parameter group.", "1/step"),
}
"""What is read at every step, or nearly, beside the vitals: name -> (meaning, unit)."""

LOGGED = "logged/"
"""Before the script's own name of a number that it logs."""


class Series:
    """Steps and values of one vital in one layer, oldest first.

    At most `capacity` points are kept. If it is full, points of the older three quarters that are closest to their
    neighbours are dropped, so the rest is nearly even in steps. The first 16 points and the latest quarter are kept.
    """

    def __init__(self, capacity: int = 1024) -> None:
        self._data = np.empty((2, capacity))
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def steps(self) -> Array:
        """Steps [n], a read-only view."""
        return _frozen(self._data[0, : self._size])

    @property
    def values(self) -> Array:
        """Values [n], NaN where missing, a read-only view."""
        return _frozen(self._data[1, : self._size])

    @property
    def last(self) -> float:
        """Step of the newest reading, -inf if there is none."""
        return float(self._data[0, self._size - 1]) if self._size else -math.inf

    def append(self, step: float, value: float) -> None:
        if self._size == self._data.shape[1]:
            self._thin()
        self._data[:, self._size] = step, value
        self._size += 1

    def _thin(self) -> None:
        steps, old = self._data[0, : self._size], self._size * 3 // 4
        inner = np.arange(_HEAD + 1, old, 2)
        gaps = steps[inner + 1] - steps[inner - 1]
        dropped = inner[np.argsort(gaps, kind="stable")[: inner.size // 2]]
        kept = np.delete(self._data[:, : self._size], dropped, axis=1)
        self._size = kept.shape[1]
        self._data[:, : self._size] = kept


class History:
    """Vitals over time. NaN is a missing reading; it is kept and counts as a reading.

    Args:
        capacity: largest number of points per (vital, layer), at least 64.

    Attributes:
        derived: key -> what has been computed from the history as it is; emptied by every reading.
    """

    def __init__(self, capacity: int = 1024) -> None:
        if capacity < 64:
            raise BadInput(f"a history needs a capacity of at least 64 points per series, got {capacity}")
        self.capacity = capacity
        self.boundaries: list[tuple[int, str]] = []
        self._series: dict[str, dict[str, Series]] = {}
        self.derived: dict[tuple[object, ...], Any] = {}

    def add(self, step: int, vital: str, layer: str, value: float | None) -> None:
        """Append one reading.

        Raises:
            BadInput: `step` is before the last reading of this series.
        """
        series = self._series.setdefault(vital, {}).setdefault(layer, Series(self.capacity))
        if step < series.last:
            raise BadInput(f"{vital} of {layer}: step {step} comes after step {series.last:.0f} was added")
        series.append(step, math.nan if value is None else float(value))
        self.derived.clear()

    def extend(self, rows: Iterable[tuple[int, str, str, float | None]]) -> None:
        """Append rows of (step, vital, layer, value)."""
        for row in rows:
            self.add(*row)

    def boundary(self, step: int, label: str = "") -> None:
        """Note that a new task starts after `step`."""
        self.boundaries.append((step, label))

    def vitals(self) -> tuple[str, ...]:
        """Names of the vitals seen."""
        return tuple(self._series)

    def layers(self, vital: str) -> tuple[str, ...]:
        """Layers in which a vital was seen, in order of appearance."""
        return tuple(self._series.get(vital, ()))

    def series(self, vital: str, layer: str) -> tuple[Array, Array]:
        """(steps [n], values [n]) without missing readings; both empty if never measured."""
        known: tuple[Array, Array] | None = self.derived.get((vital, layer))
        if known is not None:
            return known
        if (found := self._series.get(vital, {}).get(layer)) is None:
            return _EMPTY, _EMPTY
        present = ~np.isnan(found.values)
        made = (found.steps, found.values) if present.all() else (found.steps[present], found.values[present])
        return self.derived.setdefault((vital, layer), made)

    def recent(self, vital: str, layer: str, count: int) -> Array:
        """The last `count` values that are not missing, or fewer."""
        return self.series(vital, layer)[1][-count:]

    def latest(self, vital: str, layer: str) -> tuple[int, float] | None:
        """Step and value of the last reading (NaN if missing), None if never measured."""
        found = self._series.get(vital, {}).get(layer)
        return (int(found.steps[-1]), float(found.values[-1])) if found else None

    def missing_since(self, vital: str, layer: str) -> int:
        """Number of the newest readings, one after another, that are missing or infinite; 0 if all are."""
        found = self._series.get(vital, {}).get(layer)
        good = np.flatnonzero(np.isfinite(found.values)) if found else _EMPTY
        return len(found) - 1 - int(good[-1]) if found and good.size else 0

    def clock(self, vitals: Iterable[str]) -> int:
        """Step of the newest reading of any of these vitals, -1 if there is none."""
        return int(max((s.last for v in vitals for s in self._series.get(v, {}).values()), default=-1))

    def advance(self, vitals: Iterable[str]) -> int:
        """Sum of the newest steps of all layers of these vitals: it grows with every reading, also with those of a
        network that has taken fewer steps than another."""
        return int(sum(s.last for v in vitals for s in self._series.get(v, {}).values()))

    def between(self, vital: str, layer: str, after: float, until: float) -> Array:
        """Values at steps in (after, until], without missing ones."""
        steps, values = self.series(vital, layer)
        return values[np.searchsorted(steps, after, "right") : np.searchsorted(steps, until, "right")]

    def state_dict(self) -> dict[str, Any]:
        """JSON-friendly state."""
        rows = {
            vital: {layer: [s.steps.tolist(), _nones(s.values)] for layer, s in layers.items()}
            for vital, layers in self._series.items()
        }
        return {"capacity": self.capacity, "series": rows, "boundaries": [list(b) for b in self.boundaries]}

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> History:
        """The history of a `state_dict`."""
        made = cls(state["capacity"])
        made.boundaries = [(int(step), str(label)) for step, label in state["boundaries"]]
        for vital, layers in state["series"].items():
            for layer, (steps, values) in layers.items():
                made.extend((int(s), vital, layer, v) for s, v in zip(steps, values, strict=True))
        return made


def _frozen(view: Array) -> Array:
    view.flags.writeable = False
    return view


def _nones(values: Array) -> list[float | None]:
    return [None if math.isnan(v) else v for v in values.tolist()]
