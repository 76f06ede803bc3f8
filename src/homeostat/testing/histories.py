"""Histories to check conditions on: a healthy run, runs that fall ill by degrees, and nonsense."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from functools import cache

from homeostat.core.vital import NETWORK
from homeostat.diagnosis import Facts, History, OptimizerFacts

READINGS = 120
EVERY = 10
_CAPACITY = 128
LAYERS = ("fc1", "fc2")
TASK = "first task"
Point = tuple[str, str, float]
"""(vital, layer, value) of one reading."""
Course = Callable[[float, float], Iterable[Point]]
"""(time in [0, 1], how ill in [0, 1]) -> what is read then instead of the healthy values."""

FACTS = Facts(
    steps=READINGS * EVERY,
    backwards=READINGS * EVERY,
    optimizers=(OptimizerFacts("SGD", learning_rate=0.1),),
    batch_size=64,
    widths={"fc1": 32, "fc2": 16},
    nonlinearity={"fc1": "tanh", "fc2": "tanh"},
)


def wobble(index: int, size: float) -> float:
    """A number in [-size, size] that looks random and is always the same."""
    return size * math.sin(12.9898 * index) * math.cos(4.1414 * index)


def healthy_values(t: float, index: int) -> dict[tuple[str, str], float]:
    """(vital, layer) -> value of a run that goes well, at time t in [0, 1]."""
    loss = 2.0 * math.exp(-3 * t) * (1 + wobble(index, 0.03))
    found = {("loss", NETWORK): loss, ("sharpness", NETWORK): 4.0 + wobble(index, 0.2)}
    found |= {("plasticity", NETWORK): 1.0 + wobble(index + 7, 0.05), ("non-finite", NETWORK): 0.0}
    found |= {("task-accuracy", TASK): 0.95 + wobble(index + 3, 0.02)}
    for shift, layer in enumerate(LAYERS):
        i = index + 31 * shift
        found |= {("dormant-units", layer): 0.06 + wobble(i, 0.02), ("saturated-units", layer): 0.1 + wobble(i, 0.02)}
        found |= {("effective-rank", layer): 9.0 + wobble(i, 0.4), ("weight-norm", layer): 5.0 + t}
        found |= {("gradient-norm", layer): 0.5 * math.exp(-2 * t) * (1 + wobble(i, 0.1))}
    return found


def _share(vital: str) -> Course:
    return lambda t, ill: [(vital, "fc1", 0.06 + 0.92 * ill * min(1.0, 2 * t))]


def _losing_rank(t: float, ill: float) -> Iterable[Point]:
    return [("effective-rank", "fc1", 9.0 ** (1 - ill * min(1.0, 2 * t)))]


def _vanishing(t: float, ill: float) -> Iterable[Point]:
    return [("gradient-norm", "fc1", 0.5 * math.exp(-2 * t) * 10 ** (-12 * ill))]


def _exploding(t: float, ill: float) -> Iterable[Point]:
    grown = [("gradient-norm", layer, 0.5 * 10 ** (6 * ill * t)) for layer in LAYERS]
    return [*grown, ("loss", NETWORK, 2.0 + ill * t)]


def _not_finite(t: float, ill: float) -> Iterable[Point]:
    return [("non-finite", "fc1", float(round(100 * ill)) if t > 0.7 else 0.0)]


def _sharpening(t: float, ill: float) -> Iterable[Point]:
    return [("sharpness", NETWORK, 4.0 + 40.0 * ill * t)]


def _swinging(t: float, ill: float) -> Iterable[Point]:
    sign = 1 if round(t * READINGS) % 2 else -1
    return [("loss", NETWORK, 2.0 * (1.2 - 0.2 * (1 - ill) * t) * (1 + 0.6 * ill * sign))]


def _standing_still(t: float, ill: float) -> Iterable[Point]:
    return [("loss", NETWORK, 2.0 * math.exp(-3 * (1 - ill) * t) * (1 + wobble(round(t * READINGS), 0.01)))]


def _rising_by_task(t: float, ill: float) -> Iterable[Point]:
    within = t * 10 % 1
    return [("loss", NETWORK, (0.2 + 2.0 * ill * t) * (1 + 4 * math.exp(-6 * within)))]


def _losing_plasticity(t: float, ill: float) -> Iterable[Point]:
    return [("plasticity", NETWORK, 1.0 - 0.95 * ill * t)]


def _dipping(t: float, ill: float) -> Iterable[Point]:
    since = round(t * (READINGS - 1)) % (READINGS // 10)  # readings since the last boundary
    return [("task-accuracy", TASK, 0.95 - 0.8 * ill * math.exp(-since / 2))]


COURSES: dict[str, Course] = {
    "dormant units": _share("dormant-units"),
    "saturated units": _share("saturated-units"),
    "losing rank": _losing_rank,
    "vanishing gradients": _vanishing,
    "exploding gradients": _exploding,
    "values that are not finite": _not_finite,
    "sharpening": _sharpening,
    "a swinging loss": _swinging,
    "a loss that stands still": _standing_still,
    "a loss that rises from task to task": _rising_by_task,
    "losing plasticity": _losing_plasticity,
    "a gap after every boundary": _dipping,
}
"""How a run falls ill: name -> course."""

WIRING: dict[str, Facts] = {
    "parameters without optimizer": dataclasses.replace(FACTS, unoptimized=("fc2.weight",), no_gradient=("fc1.bias",)),
    "no optimizer step": Facts(steps=0, backwards=100_000, ended=True),
}
"""Faults that show in the facts alone, with nothing measured."""


def growing(course: Course, ill: float, readings: int = READINGS) -> Iterator[tuple[int, History]]:
    """(readings so far, the history then) of a run on a course, so ill. It is one history, which grows."""
    history = History(capacity=_CAPACITY)
    for index in range(readings):
        t = index / (READINGS - 1)
        values = {**healthy_values(t, index), **{(v, la): x for v, la, x in course(t, ill)}}
        step = 1 + index * EVERY
        history.extend((step, vital, layer, value) for (vital, layer), value in values.items())
        if (index + 1) % (READINGS // 10) == 0 and index + 1 < READINGS:
            history.boundary(step, "task")
        yield index + 1, history


@cache
def ill_with(course: str, ill: float) -> History:
    """The whole run on a course, so ill. Shared: whoever changes it is found out by the law "pure"."""
    *_, (_, history) = growing(COURSES[course], ill)
    return history


def well(t: float, ill: float) -> Iterable[Point]:
    """The course of a run that goes well."""
    return ()


def constant(value: float | None, readings: int = READINGS) -> History:
    """Every vital reads the same value in every layer, all the time; None: missing."""
    history = History(capacity=_CAPACITY)
    for index in range(readings):
        for vital, layer in healthy_values(0.0, 0):
            history.add(1 + index * EVERY, vital, layer, value)
    return history


@cache
def nonsense() -> dict[str, History]:
    """Readings that no sane run gives: name -> history."""
    found = {f"{value:g} everywhere": constant(value) for value in (math.inf, -math.inf, -1.0, 1e308, 1e-308, 0.0)}
    wild = History(capacity=_CAPACITY)
    for index in range(READINGS):
        for (vital, layer), value in healthy_values(index / READINGS, index).items():
            wild.add(1 + index * EVERY, vital, layer, (math.nan, math.inf, value, -value, 0.0, 1e300)[index % 6])
    return {**found, "NaN, infinity, zero and sense in turn": wild}
