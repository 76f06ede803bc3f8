"""Norm projection: scale every weight matrix back to the norm it started with."""

# Torch's stubs leave `linalg.vector_norm` partly untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from homeostat.core.component import Cite, integer, knob
from homeostat.core.edits import Edit, SetValues
from homeostat.core.errors import Refused
from homeostat.core.snapshot import Reading
from homeostat.core.tensors import broadcast_knob
from homeostat.core.treatment import Periodic, Stage, State, View
from homeostat.treatments.shapes import lead, statistic_dtype


@dataclass(frozen=True, kw_only=True)
class NormProjection(Periodic):
    """Scale every weight matrix and kernel back to the Frobenius norm it had at `attach`.

        W <- W * (1 + share * (||W_0|| / ||W|| - 1))

    In a network with normalisation layers the scale of W does not change the function, but it divides the effective
    learning rate, which therefore falls as weights grow. This is the projection step of Normalize-and-Project. The
    normalisation layers are those of the network: insert them with `layer-norm-insertion` if it has none. Without them
    the projection changes the function of the network.

    Biases and parameters of norms are not changed. A weight that is zero, starts at zero or is not finite stays as it
    is. `l2-init` keeps the scales and offsets of norms near their start.

    No state.

    Raises:
        Refused: the network has no weight matrix.

    Source: Lyle et al. (2024), arXiv:2407.01800.

    >>> NormProjection(every=10).name
    'norm-projection'
    """

    cite = Cite(
        "Lyle, Zheng, Khetarpal, Martens, van Hasselt, Pascanu and Dabney",
        2024,
        "Normalization and effective learning rates in reinforcement learning",
        "2407.01800",
        "NeurIPS",
    )
    stage = Stage.UPDATE
    reads = frozenset({Reading.INITIAL})
    optimizer_state = "untouched: the moments describe the gradient, whose direction does not depend on the scale"

    share: float = knob(1.0, low=0.0, high=1.0, neutral=0.0, unit="share of the rescaling", source="arXiv:2407.01800")
    every: int = integer(1, unit="steps")

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        if not view.weights():
            raise Refused(self.name, "the network", "it has no trainable weight matrix outside normalisation layers")
        return {}

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        edits: list[Edit] = []
        for name, weight in view.weights().items():
            now, start = _norm(weight, view), _norm(view.initial[name], view)
            usable = (now > 0) & (start > 0) & now.isfinite() & start.isfinite()
            factor = 1 + knobs["share"].to(now) * (start / torch.where(usable, now, 1.0) - 1)
            scaled = weight.to(factor.dtype) * broadcast_knob(torch.where(usable, factor, 1.0), weight.to(factor.dtype))
            edits.append(SetValues(name, scaled.to(weight.dtype)))
        return edits, state

    def effect(self, before: View, edits: Sequence[Edit], after: View) -> str | None:
        for edit in edits:
            now, start = _norm(after.parameters[edit.target], after), _norm(after.initial[edit.target], after)
            if self.share == 1 and bool(((now - start).abs() > 1e-2 * start).any()) and bool((now > 0).all()):
                return f"{edit.target} has norm {now.tolist()}, not {start.tolist()}"
        return None


def _norm(weight: Tensor, view: View) -> Tensor:
    """Frobenius norms [*R]."""
    replicas = lead(view)
    return torch.linalg.vector_norm(weight.flatten(replicas), dim=replicas, dtype=statistic_dtype(weight))
