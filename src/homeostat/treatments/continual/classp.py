"""CLASSP: slow down weights that were updated much, and ignore small gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob, option
from homeostat.core.edits import Edit, SetValues
from homeostat.core.snapshot import Reading
from homeostat.core.tensors import broadcast_knob
from homeostat.core.treatment import Stage, State, Treatment, View
from homeostat.treatments.shapes import statistic_dtype


@dataclass(frozen=True, kw_only=True)
class Classp(Treatment):
    """Replace the optimizer's update of every weight by CLASSP's. With g the gradient that the optimizer received:

        where g^2 > threshold:   G <- G + |g|^power
                                 w <- w - rate * g / (epsilon + G)^(1 / power)
        elsewhere:               w and G do not change

    G is kept across tasks, so weights that were updated much change less and less (adjustment suppression). Gradients
    below the threshold never change a weight (sparsity promotion). Power 2 with threshold 0 is AdaGrad. The threshold
    has the unit of a squared gradient: choose it again for another network, loss or batch size.

    `scaling` selects when the division is applied: "always", "never" (w <- w - rate * g, the ablation), or "later"
    (from the first `run.boundary()` on, while G grows from the start), as in the authors' experiment.

    The optimizer's update, with momentum and weight decay, is replaced: w_new = (1 - share) * w_optimizer + share *
    w_classp. At share 1 the optimizer's learning rate and its schedule have no effect. Non-finite gradients change
    nothing. Parameters without a gradient are not changed.

    Paper and code disagree on whether G already includes the current gradient: the equation sums up to the previous
    step, the authors' pseudocode and code add first. Here it is added first, because this recovers AdaGrad, and because
    the first update of a weight would otherwise be divided by epsilon alone. The paper's equation sums over all past
    gradients; its pseudocode, like this class, sums over those above the threshold. The authors' code
    (oswaldoludwig/CLASSP) has two more differences from their formula: it applies the threshold to
    `(grad ** 2).any()`, which is true for every tensor with a gradient, so no gradient is ignored; and G grows by |g|
    without the power.

    State: G for every trained parameter, in at least float32.

    Source: Ludwig (2024), arXiv:2405.09637, and the pseudocode with the authors' code. The defaults of power and
    epsilon are from that code; its rate is 0.2, without scaling in the first task, and its threshold 0.5, without
    effect.

    >>> Classp(power=2.0, threshold=0.0).name
    'classp'
    """

    name = "classp"
    cite = Cite.of("classp")
    stage = Stage.UPDATE
    reads = frozenset({Reading.GRADIENTS, Reading.UPDATES})
    optimizer_state = (
        "not edited: it follows the gradients as before, and has no effect on the weights while `share` is 1"
    )
    trial: ClassVar[Mapping[str, float]] = {"threshold": 1e-4}

    share: float = knob(1.0, low=0.0, high=1.0, neutral=0.0, unit="share of this update", source="the whole update")
    rate: float = knob(0.06, low=0.0, high=10.0, unit="weight", source="best on its study's tuning seeds")
    threshold: float = knob(1e-5, low=0.0, high=1e6, unit="squared gradient", source="best on its study's tuning seeds")
    power: float = knob(1.0, low=0.5, high=4.0, unit="exponent", source="the authors' code")
    epsilon: float = knob(1e-5, low=1e-12, high=1.0, unit="gradient ** power", source="the authors' code")
    scaling: str = option("always", choices=("always", "later", "never"), doc="when the division by G is applied")

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
            after[name] = held + gradient.abs() ** broadcast_knob(knobs["power"], held)
            moved = (was.to(held.dtype) - self._change(gradient, after[name], view.task, knobs)).to(now.dtype)
            edits.append(SetValues(name, _between(now, torch.where(fired, moved, was), knobs["share"])))
        return edits, after

    def _change(self, gradient: Tensor, held: Tensor, task: int, knobs: Mapping[str, Tensor]) -> Tensor:
        rate, epsilon, power = (broadcast_knob(knobs[name], held) for name in ("rate", "epsilon", "power"))
        scaled = self.scaling == "always" or (self.scaling == "later" and task > 0)
        return rate * gradient / (epsilon + held) ** (1 / power) if scaled else rate * gradient

    def effect(self, before: View, edits: Sequence[Edit], after: View) -> str | None:
        if self.share < 1:
            return None
        for name, gradient in before.gradients.items():
            small = (
                gradient.double().square() < (1 - 1e-6) * self.threshold
            )  # at the threshold, rounding may go either way
            if name in before.before and bool((small & (after.parameters[name] != before.before[name])).any()):
                return f"{name} was moved where its squared gradient is at most {self.threshold:g}"
        return None


def _fired(gradient: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient where its square is above the threshold, else 0; and the mask of these elements."""
    size = gradient.abs()  # compared with the root, because a square could overflow
    fired = (size > broadcast_knob(threshold, gradient).sqrt()) & (size < torch.inf)
    return torch.where(fired, gradient, 0.0), fired


def _between(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """(1 - share) * own + share * other; `other` alone at share 1, whatever `own` is."""
    share = broadcast_knob(share, own)
    return torch.where(share < 1, torch.lerp(own, other, share), other)
