"""CLASSP: weights that have learned much learn slowly, and small gradients move nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob, option
from homeostat.core.edits import Edit, SetValues
from homeostat.core.readings import Reading
from homeostat.core.treatment import Stage, State, Treatment, View
from homeostat.treatments.shapes import beside, statistic_dtype


@dataclass(frozen=True, kw_only=True)
class Classp(Treatment):
    """Put CLASSP's update of every weight in the place of the optimizer's. With g the gradient as the optimizer saw it:

        where g^2 > threshold:   G <- G + |g|^power
                                 w <- w - rate * g / (epsilon + G)^(1 / power)
        elsewhere:               w and G stay as they are

    G is kept over tasks, so weights that were used much freeze (adjustment suppression); gradients below the threshold
    never move a weight (sparsity promotion). Power 2 with threshold 0 is AdaGrad. The threshold is in the loss's
    units: it has to be chosen anew for another loss or batch size, as sizes of gradients differ between networks.

    `scaling` says when the division acts: "always", "never" (w <- w - rate * g; the ablation), or "later" (from the
    first boundary that the run is told of; G grows before it too), which is how the authors' experiment was run.

    Whatever the optimizer did in the step (momentum, weight decay) is replaced: w_new = (1 - share) * w_optimizer +
    share * w_classp. A gradient that is not finite moves nothing. The learning rate of the optimizer, and a schedule of
    it, have no part in it at share 1. Parameters without a gradient are left alone.

    Whether G holds the present gradient is told in two ways: the equation sums up to the step before, the authors'
    pseudocode and code add first. Here it is added first, because only then is AdaGrad recovered and is the first
    update of a weight not divided by epsilon alone. The authors' code (oswaldoludwig/CLASSP) also differs from their
    formula: it applies the threshold to `(grad ** 2).any()`, which holds for every tensor with a gradient, so nothing
    is ever held back, and the power is missing where G grows.

    State: G for every trained parameter, in at least float32.

    Source: Ludwig (2024), arXiv:2405.09637, and the pseudocode beside the authors' code. Power and epsilon are that
    code's: rate 0.2 there, without scaling during the first task, and threshold 0.5, which is never in effect.

    >>> Classp(power=2.0, threshold=0.0).name
    'classp'
    """

    name = "classp"
    cite = Cite(
        "Ludwig",
        2024,
        "CLASSP: a Biologically-Inspired Approach to Continual Learning through Adjustment Suppression and Sparsity "
        "Promotion",
        "2405.09637",
    )
    entries = ("classp",)
    stage = Stage.UPDATE
    reads = frozenset({Reading.GRADIENTS, Reading.UPDATES})
    optimizer_state: ClassVar[str] = (
        "untouched: it goes on following the gradients, and has no part in the weights while `share` is 1"
    )
    trial: ClassVar[Mapping[str, float]] = {"threshold": 1e-4}

    share: float = knob(1.0, low=0.0, high=1.0, neutral=0.0, unit="share of this update", source="the whole update")
    rate: float = knob(0.06, low=0.0, high=10.0, unit="weight", source="best on its study's tuning seeds")
    threshold: float = knob(1e-5, low=0.0, high=1e6, unit="squared gradient", source="best on its study's tuning seeds")
    power: float = knob(1.0, low=0.5, high=4.0, unit="exponent", source="the authors' code")
    epsilon: float = knob(1e-5, low=1e-12, high=1.0, unit="gradient ** power", source="the authors' code")
    scaling: str = option("always", choices=("always", "later", "never"), doc="when the division by G acts")

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        return {
            name: torch.zeros(value.shape, dtype=statistic_dtype(value), device=value.device)
            for name, value in view.parameters.items()
        }

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        edits: list[Edit] = []
        after = dict(state)
        for name in (n for n in view.gradients if n in view.before):
            now, was, held = view.parameters[name], view.before[name], state[name]
            gradient, fired = _fired(view.gradients[name].to(held.dtype), knobs["threshold"])
            after[name] = held + gradient.abs() ** beside(knobs["power"], held)
            moved = (was.to(held.dtype) - self._change(gradient, after[name], view.task, knobs)).to(now.dtype)
            edits.append(SetValues(name, _between(now, torch.where(fired, moved, was), knobs["share"])))
        return edits, after

    def _change(self, gradient: Tensor, held: Tensor, task: int, knobs: Mapping[str, Tensor]) -> Tensor:
        rate, epsilon, power = (beside(knobs[name], held) for name in ("rate", "epsilon", "power"))
        scaled = self.scaling == "always" or (self.scaling == "later" and task > 0)
        return rate * gradient / (epsilon + held) ** (1 / power) if scaled else rate * gradient

    def effect(self, before: View, edits: Sequence[Edit], after: View) -> str | None:
        if self.share < 1:
            return None
        for name, gradient in before.gradients.items():
            small = gradient.double().square() < (1 - 1e-6) * self.threshold  # rounding may go either way at the edge
            if name in before.before and bool((small & (after.parameters[name] != before.before[name])).any()):
                return f"{name} was moved where its squared gradient is at most {self.threshold:g}"
        return None


def _fired(gradient: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient where its square is above the threshold, 0 elsewhere; and where that is."""
    size = gradient.abs()  # held against the root: a square could overflow
    fired = (size > beside(threshold, gradient).sqrt()) & (size < torch.inf)
    return torch.where(fired, gradient, 0.0), fired


def _between(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """(1 - share) * own + share * other; `other` alone at share 1, whatever `own` is."""
    share = beside(share, own)
    return torch.where(share < 1, torch.lerp(own, other, share), other)
