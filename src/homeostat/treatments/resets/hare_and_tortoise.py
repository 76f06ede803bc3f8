"""Hare and tortoise: reset the weights to their slow moving average at regular intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, integer, knob
from homeostat.core.edits import Edit, SetValues
from homeostat.core.tensors import broadcast_knob
from homeostat.core.treatment import Stage, State, Treatment, View
from homeostat.treatments.shapes import statistic_dtype


@dataclass(frozen=True, kw_only=True)
class HareAndTortoise(Treatment):
    """Keep a moving average of the weights, and set the weights to it every `every` optimizer steps.

        tortoise <- decay * tortoise + (1 - decay) * hare        after every update
        hare <- tortoise                                         every `every` steps

    The trained weights (the hare) adapt fast; their average (the tortoise) keeps what lasts. The average starts at the
    weights of the first step. At decay 0 the average is the weights, and nothing changes. `temporal-ensemble`
    with the same decay evaluates with the tortoise.

    State: "<parameter>", the tortoise, in at least float32. Non-finite weights are not averaged.

    Source: Lee et al. (2024), arXiv:2406.02596. The defaults are our choice, not checked in the paper,
    with an interval of two times the memory 1 / (1 - decay) of the average.

    >>> HareAndTortoise(every=500).name
    'hare-and-tortoise'
    """

    cite = Cite(
        "Lee, Cho, Kim, Kim, Min, Choo and Lyle",
        2024,
        "Slow and Steady Wins the Race: Maintaining Plasticity with Hare and Tortoise Networks",
        "2406.02596",
        "ICML",
    )
    stage = Stage.UPDATE
    optimizer_state = "untouched: the weights move to an average of where they were, not to new values"
    trial: ClassVar[Mapping[str, Any]] = {"decay": 0.9, "every": 5}

    decay: float = knob(0.999, low=0.0, high=1.0, neutral=0.0, unit="1/update", source="our choice")
    every: int = integer(2000, unit="steps")

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        return {name: value.detach().to(statistic_dtype(value)).clone() for name, value in view.parameters.items()}

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        after, edits = dict(state), list[Edit]()
        for name, value in view.parameters.items():
            hare = value.to(state[name].dtype)
            moved = torch.lerp(state[name], hare, 1 - broadcast_knob(knobs["decay"], hare))
            after[name] = torch.where(hare.isfinite(), moved, state[name])
            if view.step % self.every == 0:
                edits.append(SetValues(name, after[name].to(value.dtype)))
        return edits, after
