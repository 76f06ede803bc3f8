"""Histories to check conditions on: a healthy run, runs that get worse by degrees, and invalid readings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cache

from homeostat.core.component import components
from homeostat.core.vital import NETWORK
from homeostat.diagnosis import Condition, Facts, History, OptimizerFacts
from homeostat.diagnosis.example_histories import LAYERS, READINGS, TASK, ExampleHistory, Point, wobble
from homeostat.diagnosis.loss_facts import InputFacts, LabelFacts, LossFacts

EVERY = 10
_CAPACITY = 128

FACTS = Facts(
    steps=READINGS * EVERY,
    backwards=READINGS * EVERY,
    optimizers=(OptimizerFacts("SGD", learning_rate=0.1, momentum=0.9, weight_decay=0.01),),
    batch_size=64,
    widths={"fc.1": 32, "fc.2": 16},
    nonlinearity={"fc.1": "tanh", "fc.2": "tanh"},
    loss=LossFacts(readings=40, inputs=InputFacts(size=100.0, offset=5.0), labels=LabelFacts(classes=8, chance=2.08)),
)
"""Facts of a healthy run, with large inputs and some weight decay."""


def healthy_values(t: float, index: int) -> dict[tuple[str, str], float]:
    """(vital, layer) -> value in a healthy run at time t in [0, 1]."""
    loss = 2.0 * math.exp(-3 * t) * (1 + wobble(index, 0.03))
    found = {("loss", NETWORK): loss, ("sharpness", NETWORK): 4.0 + wobble(index, 0.2)}
    found |= {("plasticity", NETWORK): 1.0 + wobble(index + 7, 0.05), ("non-finite", NETWORK): 0.0}
    found |= {("task-accuracy", TASK): 0.95 + wobble(index + 3, 0.02)}
    for shift, layer in enumerate(LAYERS):
        i = index + 31 * shift
        found |= {("dormant-units", layer): 0.06 + wobble(i, 0.02), ("saturated-units", layer): 0.1 + wobble(i, 0.02)}
        found |= {("effective-rank", layer): 9.0 + wobble(i, 0.4), ("weight-norm", layer): 5.0 + t}
        found |= {("gradient-norm", layer): 0.5 * math.exp(-2 * t) * (1 + wobble(i, 0.1))}
    for example in examples().values():  # vitals that only the examples of a condition define
        for vital, layer, value in example(t, 0.0):
            found.setdefault((vital, layer), value)
    return found


def examples(*more: Condition) -> dict[str, ExampleHistory]:
    """Example histories of all registered conditions and of these. Name -> example."""
    return {
        name: example for one in (*components("condition").values(), *more) for name, example in one.examples.items()
    }


def faults(*more: Condition) -> dict[str, Facts]:
    """Faults that are visible in the facts alone: those of all registered conditions and these. Name -> facts."""
    return {name: facts for one in (*components("condition").values(), *more) for name, facts in one.faults.items()}


def growing(example: ExampleHistory, degree: float, readings: int = READINGS) -> Iterator[tuple[int, History]]:
    """(number of readings, history) of an example of this degree. All pairs share one growing history."""
    history = History(capacity=_CAPACITY)
    for index in range(readings):
        t = index / (READINGS - 1)
        values = {**healthy_values(t, index), **{(v, la): x for v, la, x in example(t, degree)}}
        step = 1 + index * EVERY
        history.extend((step, vital, layer, value) for (vital, layer), value in values.items())
        if (index + 1) % (READINGS // 10) == 0 and index + 1 < READINGS:
            history.boundary(step, "task")
        yield index + 1, history


@cache
def sick(example: ExampleHistory, degree: float) -> History:
    """The whole history of an example of this degree. It is shared; the law "pure" detects changes to it."""
    *_, (_, history) = growing(example, degree)
    return history


def well(t: float, degree: float) -> Iterable[Point]:
    """A healthy run: no reading differs."""
    return ()


def constant(value: float | None, readings: int = READINGS) -> History:
    """Every vital has the same value in every layer at all times; None means missing."""
    history = History(capacity=_CAPACITY)
    for index in range(readings):
        for vital, layer in healthy_values(0.0, 0):
            history.add(1 + index * EVERY, vital, layer, value)
    return history


@cache
def nonsense() -> dict[str, History]:
    """Invalid or extreme readings: name -> history."""
    found = {f"{value:g} everywhere": constant(value) for value in (math.inf, -math.inf, -1.0, 1e308, 1e-308, 0.0)}
    wild = History(capacity=_CAPACITY)
    for index in range(READINGS):
        for (vital, layer), value in healthy_values(index / READINGS, index).items():
            wild.add(1 + index * EVERY, vital, layer, (math.nan, math.inf, value, -value, 0.0, 1e300)[index % 6])
    return {**found, "NaN, infinity, zero and healthy values in turn": wild}
