"""Training that continues without its optimizer's state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import SYMPTOMS, Condition, Sign
from homeostat.diagnosis.example_histories import ExampleHistory, Point
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.sources import TRAINCHECK
from homeostat.diagnosis.thresholds import limit

MEAN = 8
"""Steps whose losses are averaged."""


def _jumping(t: float, ill: float) -> list[Point]:
    level = 0.02 + (0.6 * ill * math.exp(-3 * t) if t > 0 else 0.0)
    return [(vital, NETWORK, level if ill else 2.0 * math.exp(-3 * t)) for vital in ("loss", "step-loss")]


@dataclass(frozen=True, kw_only=True)
class ResumedWithoutOptimizerState(Condition):
    """The first loss is that of a trained network, the optimizer has no state, and the loss jumps at once.

        loss at step 1 <= trained * loss of guessing,   max of the loss since / loss at step 1 >= jump

    The loss since step 1 is that of every step, averaged over 8 steps, or that of the readings if it is not known at
    every step.

    Settings:
        trained: largest share of the loss of guessing at which the network counts as trained.
        jump: smallest factor by which the loss rises.
        height: smallest share of the loss of guessing that it reaches.
        steps: number of steps after the first within which it rises.
    """

    cite = TRAINCHECK
    reads = ("step-loss", "loss")
    explains = SYMPTOMS
    explanation = (
        "The weights were loaded and the optimizer was not: its moments, its step count and its learning rate begin "
        "anew. The first steps are then too long, and part of what was learned is lost."
    )
    remedies = (
        Remedy("load the states of the optimizer and of the scheduler too: optimizer.load_state_dict(...)"),
        Remedy("if they are gone, continue with the learning rate of the end of the schedule, and warm it up"),
    )
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"a loss that jumps after the first step": _jumping}
    persistence: int = 1
    trained: float = limit(0.25, "policy: a network at a quarter of the loss of guessing has learned", high=1.0)
    jump: float = limit(3, "policy: batches of a trained network differ by less", ease=0.8)
    height: float = limit(0.05, "policy: a rise within noise near zero is of no account", ease=0.8, high=1.0)
    steps: float = limit(100, "policy: moments are rebuilt within so many steps", unit="steps")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        guessing = facts.loss.labels.chance
        if facts.resumed or not guessing > 0 or all(o.momentum == 0 and o.name == "SGD" for o in facts.optimizers):
            return {}
        found: dict[str, Sign] = {}
        for layer in history.layers("loss"):
            each = history.series("step-loss", layer)
            steps, values = each if each[0].size > MEAN else history.series("loss", layer)
            if not values.size or not np.isfinite(values).all():
                continue
            soon = values[(steps > steps[0]) & (steps <= steps[0] + self.steps)]
            if values is each[1] and soon.size >= MEAN:
                soon = np.convolve(soon, np.full(MEAN, 1 / MEAN), "valid")
            if steps[0] > 2 or soon.size < 2:
                continue
            first, top = float(values[0]), float(soon.max())
            if first <= self.trained * guessing and top >= self.jump * first and top >= self.height * guessing:
                text = f"the first loss, {first:.3g}, was that of a trained network; within {self.steps:.0f} steps it"
                found[layer] = Sign("warning", f"{text} rose to {top:.3g}", {"first": first, "highest": top})
        return found
