"""Weight clipping: keep every weight within a multiple of the range it was initialised in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob
from homeostat.core.edits import Edit, SetValues
from homeostat.core.errors import Refused
from homeostat.core.tensors import broadcast_knob
from homeostat.core.treatment import Fresh, Stage, State, Treatment, View


@dataclass(frozen=True, kw_only=True)
class WeightClipping(Treatment):
    """After every update, clip each weight and bias to `kappa` times the range of its initial distribution.

        w <- min(max(w, -kappa * b), kappa * b)

    b is the half-width of a uniform initial distribution, and sqrt(3) standard deviations of a normal one (the uniform
    distribution of the same variance). For torch's layers b is 1 / sqrt(fan_in) of weight and bias, as in the
    authors' code.
    Parameters of norms and those that started at a constant or at an unknown distribution are not changed.

    No state. Non-finite weights stay as they are.

    Raises:
        Refused: no parameter has a known random initial distribution.

    Source: Elsayed, Lan, Lyle and Mahmood (2024), arXiv:2407.01704, and the authors' code. The default is our choice.

    >>> WeightClipping(kappa=2.0).name
    'weight-clipping'
    """

    cite = Cite(
        "Elsayed, Lan, Lyle and Mahmood",
        2024,
        "Weight Clipping for Deep Continual and Reinforcement Learning",
        "2407.01704",
        "RLC",
    )
    stage = Stage.UPDATE
    optimizer_state = "untouched: the moments describe the gradient, which clipping does not change"

    trial: ClassVar[Mapping[str, float]] = {"kappa": 0.9}

    kappa: float = knob(3.0, low=0.1, high=1e4, neutral=1e4, unit="initial half-widths", source="our choice")

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        if not any(_half_width(view, name) for name in view.parameters):
            raise Refused(self.name, "the network", "no trainable parameter has a known random initial distribution")
        return {}

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        edits: list[Edit] = []
        for name, value in view.parameters.items():
            if width := _half_width(view, name):
                bound = (broadcast_knob(knobs["kappa"], value) * width).expand_as(value)
                edits.append(SetValues(name, torch.where(value.isfinite(), value.clamp(-bound, bound), value)))
        return edits, state

    def effect(self, before: View, edits: Sequence[Edit], after: View) -> str | None:
        for name, value in after.parameters.items():
            bound = self.kappa * _half_width(after, name)
            if bound and bool((value.abs() > bound * 1.001).any()):
                return f"{name} has a weight of {float(value.abs().max()):g}, above {bound:g}"
        return None


def _half_width(view: View, name: str) -> float:
    """Half the range of a parameter's initial distribution, 0 if it has none or must not be clipped."""
    fresh = view.fresh.get(name, Fresh("constant"))
    if name in view.norms or fresh.mean or fresh.kind not in ("uniform", "normal"):
        return 0.0
    return fresh.scale * (math.sqrt(3) if fresh.kind == "normal" else 1.0)
