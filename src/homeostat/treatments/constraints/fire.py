"""FIRE: replace every weight matrix by the nearest matrix with orthogonal rows or columns."""

# Torch's stubs leave `linalg.svd` partly untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob
from homeostat.core.edits import ClearMoments, Edit, SetValues
from homeostat.core.errors import Refused
from homeostat.core.tensors import broadcast_knob
from homeostat.core.treatment import Stage, State, Treatment, View
from homeostat.treatments.shapes import lead, statistic_dtype


@dataclass(frozen=True, kw_only=True)
class Fire(Treatment):
    """At every task boundary (`run.boundary()`), project each weight matrix on the scaled orthogonal matrices.

        W = U S V^T,   W <- (1 - share) * W + share * c * U V^T,   c = sqrt(out / in) / positions

    U V^T is the orthogonal matrix nearest to W in Frobenius norm: it keeps the directions that W has learned and gives
    them the same gain, which restores the plasticity that unequal singular values cost. A kernel [out, in, *positions]
    is projected at each of its positions, and c divides by their number. Biases and norms are not changed, nor are
    weights with a value that is not finite.

    The authors' code (isaac7778/FIRE) approximates U V^T by a fixed number of cubic Newton-Schulz steps from
    W / ||W||_F, which leaves small singular values below 1. Here it is computed by an SVD, so all are 1.

    No state.

    Raises:
        Refused: the network has no weight matrix.

    Source: Han et al. (2026), arXiv:2602.08040, and the authors' code for scale and kernels.

    >>> Fire().stage.value
    'boundary'
    """

    name = "fire"
    cite = Cite(
        "Han, Park, Oh, Kim, Lee and Kim",
        2026,
        "FIRE: Frobenius-Isometry Reinitialization for Balancing the Stability-Plasticity Tradeoff",
        "2602.08040",
        "ICLR",
    )
    stage = Stage.BOUNDARY
    optimizer_state = "cleared for the projected weights, with their step counts: they are new to the optimizer"

    share: float = knob(1.0, low=0.0, high=1.0, neutral=0.0, unit="share of the projection", source="arXiv:2602.08040")

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        if not view.weights():
            raise Refused(self.name, "the network", "it has no trainable weight matrix outside normalisation layers")
        return {}

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        edits: list[Edit] = []
        for name, weight in view.weights().items():
            share = broadcast_knob(knobs["share"], weight)
            value = torch.lerp(weight, nearest_isometry(weight, lead(view)), share)
            changed = (share > 0).expand_as(weight)
            edits += [SetValues(name, value, changed, averaged=False), ClearMoments(name, changed)]
        return edits, state

    def effect(self, before: View, edits: Sequence[Edit], after: View) -> str | None:
        if self.share < 1:
            return None
        for name, weight in after.weights().items():
            matrices = _matrices(weight, lead(after)).double()
            if matrices.isfinite().all():
                values, target = torch.linalg.svdvals(matrices), _scale(matrices, weight, lead(after))
                if bool(((values - target).abs() > 1e-2 * target).any()):
                    return f"the singular values of {name} are not all {target:g}"
        return None


def nearest_isometry(weight: Tensor, replicas: int) -> Tensor:
    """c * U V^T of a weight or kernel [*R, out, in, *positions], in its shape; unchanged where it is not finite."""
    matrices = _matrices(weight, replicas).to(statistic_dtype(weight))
    finite = matrices.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    u, _, vh = torch.linalg.svd(torch.where(finite, matrices, 0.0), full_matrices=False)
    new = torch.where(finite, u @ vh * _scale(matrices, weight, replicas), matrices)
    shape = (*weight.shape[:replicas], *weight.shape[replicas + 2 :], *weight.shape[replicas : replicas + 2])
    return new.reshape(shape).movedim((-2, -1), (replicas, replicas + 1)).contiguous().to(weight.dtype)


def _matrices(weight: Tensor, replicas: int) -> Tensor:
    """[*R, out, in, *positions] -> [*R, positions, out, in]."""
    last = weight.movedim((replicas, replicas + 1), (-2, -1))
    return last.reshape(*weight.shape[:replicas], -1, *weight.shape[replicas : replicas + 2])


def _scale(matrices: Tensor, weight: Tensor, replicas: int) -> float:
    """c = sqrt(out / in) / positions."""
    out, into = weight.shape[replicas : replicas + 2]
    return math.sqrt(out / into) / matrices.shape[-3]
