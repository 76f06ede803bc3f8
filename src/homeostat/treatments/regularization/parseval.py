"""Parseval regularisation: keep the rows of every weight matrix orthogonal and of one length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob, option
from homeostat.core.edits import Edit
from homeostat.core.snapshot import Reading
from homeostat.core.treatment import State, View
from homeostat.treatments.regularization.penalty import GradientPenalty
from homeostat.treatments.regularization.spectral import as_matrix
from homeostat.treatments.shapes import lead


@dataclass(frozen=True, kw_only=True)
class ParsevalRegularization(GradientPenalty):
    """Add the gradient of strength * ||W W^T - scale * I||_F^2 of every weight to the loss's gradient.

        g <- g + 4 * strength * (W W^T - scale * I) W

    Kernels are treated as matrices [out, in*kh*kw]. A matrix with more rows than columns cannot have orthogonal rows;
    the penalty is then smallest where W^T W = scale * I. Biases, norms and parameters without a gradient in this step
    are not changed. Nor is the output layer, unless `last` asks for it: its rows are directions of classes or values,
    which need not be orthogonal. The output layer is the last weight in the order of the network's parameters. The code
    of FIRE's authors (isaac7778/FIRE), which has this penalty as a baseline, includes every layer.

    No state. Cost: two products of each weight with its Gram matrix per step.

    Source: Chung, Cherif, Meger and Precup (2024), arXiv:2412.07224. Strength and scale are our choice: scale 1
    keeps the norm of what passes through a square layer.

    >>> ParsevalRegularization(strength=1e-4).scale
    1.0
    """

    cite = Cite(
        "Chung, Cherif, Meger and Precup",
        2024,
        "Parseval Regularization for Continual Reinforcement Learning",
        "2412.07224",
        "NeurIPS",
    )
    reads = frozenset({Reading.GRADIENTS})

    strength: float = knob(
        1e-3, low=0.0, high=10.0, neutral=0.0, unit="loss per squared entry of W W^T", source="our choice"
    )
    scale: float = option(1.0, doc="the squared length of the rows")
    last: bool = option(False, choices=(True, False), doc="whether the output layer is regularised too")

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        left_out = "" if self.last else _output_layer(view)
        regularised = {name: gradient for name, gradient in view.gradients.items() if name != left_out}
        return super().plan(replace(view, gradients=regularised), state, knobs)

    def gradient(self, name: str, view: View, state: State) -> Tensor | None:
        if not view.is_weight(name):
            return None
        weight = view.parameters[name]
        matrix = as_matrix(weight, lead(view))
        gram = matrix @ matrix.mT
        excess = gram - self.scale * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        return (4 * excess @ matrix).reshape(weight.shape)


def _output_layer(view: View) -> str:
    """The name of the last weight, "" if it is the only one."""
    weights = list(view.weights())
    return weights[-1] if len(weights) > 1 else ""
