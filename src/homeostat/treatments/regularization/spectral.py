"""Penalties on the spectrum and on the distribution of the weights."""

# Torch's stubs leave `Tensor.norm` untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob, option
from homeostat.core.random import Draw
from homeostat.core.snapshot import Reading
from homeostat.core.tensors import broadcast_knob
from homeostat.core.treatment import State, View
from homeostat.treatments.regularization.penalty import GradientPenalty
from homeostat.treatments.shapes import lead, statistic_dtype

LEWANDOWSKI = Cite.of("spectral-regularization")
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class SpectralRegularization(GradientPenalty):
    """Keep the largest singular value of every weight near 1.

    Adds the gradient of strength * R to the loss's gradient, with k = `power` and

        R = sum over weights (sigma_1(W)^k - 1)^2 + sum over biases ||b||^(2k) + sum over norm scales (g_i^k - 1)^2

    Kernels are treated as matrices [out, in*kh*kw]. sigma_1 = u^T W v is estimated by one step of power iteration per
    update, u <- W v / ||.||, v <- W^T u / ||.||, where v is kept between steps. Its gradient is u v^T. Shifts of norm
    layers count as biases. Parameters without a gradient in this step are not changed.

    The paper defines the weight term. The bias and scale terms are our reading of it (biases towards 0, scales towards
    1, with the same power); `vectors=False` omits them.

    State: "<parameter>/v", the right singular vector [*R, in*kh*kw].

    Source: Lewandowski et al. (2024), arXiv:2406.06811, spectral regulariser with k = 2.

    >>> SpectralRegularization(strength=1e-3).power
    2
    """

    cite = LEWANDOWSKI
    reads = frozenset({Reading.GRADIENTS})

    power: int = option(2, choices=(1, 2, 3, 4))
    vectors: bool = option(True, choices=(True, False))

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        state: State = {}
        # not view.draw itself: the start must not depend on the step at which the treatment begins
        draw = Draw(view.draw.seed, (self.name,))
        for name, weight in view.weights().items():
            matrix = as_matrix(weight, lead(view)).to(statistic_dtype(weight))
            state[f"{name}/v"] = _unit(draw.normal(f"{name}/v", matrix[..., 0, :]))
        return state

    def gradient(self, name: str, view: View, state: State) -> Tensor | None:
        value = view.parameters[name]
        if not view.is_weight(name):
            scale = name in view.norms and name.endswith("weight")
            return self._vector(value, scale, view) if self.vectors else None
        if f"{name}/v" not in state:
            return None
        gradient, state[f"{name}/v"] = self._matrix(value, state[f"{name}/v"], lead(view))
        return gradient

    def _matrix(self, weight: Tensor, v: Tensor, replicas: int) -> tuple[Tensor, Tensor]:
        """Gradient of (sigma_1^k - 1)^2, in the weight's shape, and the next v."""
        matrix, k = as_matrix(weight, replicas).to(v.dtype), self.power
        u, sigma, v = power_step(matrix, v)
        sigma = sigma[..., None, None]
        gradient = 2 * (sigma**k - 1) * k * sigma ** (k - 1) * u[..., :, None] * v[..., None, :]
        return gradient.reshape(weight.shape).to(weight.dtype), v

    def _vector(self, value: Tensor, scale: bool, view: View) -> Tensor:
        """Gradient of the penalty on a norm's scale (towards 1) or on a bias (towards 0)."""
        k = self.power
        if scale:
            return 2 * (value**k - 1) * k * value ** (k - 1)
        squared = value.flatten(lead(view)).square().sum(-1) if value.ndim > lead(view) else value.square()
        return 2 * k * broadcast_knob(squared ** (k - 1), value) * value


def as_matrix(weight: Tensor, replicas: int) -> Tensor:
    """A weight or kernel [*R, out, ...] as matrices [*R, out, rest]."""
    return weight.flatten(replicas + 1)


def power_step(matrix: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of power iteration: [*R, M, N], [*R, N] -> left vector u, u^T W v and right vector v.

    A zero matrix has value 0 and keeps v.
    """
    u = _unit((matrix @ v[..., None])[..., 0])
    back = (matrix.mT @ u[..., None])[..., 0]
    sigma = back.norm(dim=-1)
    return u, sigma, torch.where(sigma[..., None] > _TINY, _unit(back), v)


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm(dim=-1, keepdim=True).clamp(min=_TINY)


@dataclass(frozen=True, kw_only=True)
class WassersteinRegularization(GradientPenalty):
    """Pull the distribution of the entries of every weight towards their distribution at initialisation.

    Adds the gradient of strength * R to the loss's gradient, with

        R = sum_l ||sort(vec W_l) - sort(vec W_l^0)||^2         reduce="sum": strength comparable with L2Init's
        R = mean_l ||sort(vec W_l) - sort(vec W_l^0)||^2 / d_l  reduce="mean": the squared 2-Wasserstein distance

    The entry of rank r is pulled towards the initial entry of rank r. Exchanging two entries costs nothing, so the
    constraint is weaker than that of `L2Init`. Ties are matched in the order of their positions. Only weights and
    kernels with a gradient in this step are changed.

    State: "<parameter>/sorted", the initial entries in order [*R, d]. Cost: one sort of every weight per step.

    Source: Lewandowski et al. (2024), arXiv:2406.06811 v1, Wasserstein regularisation towards the initial distribution.

    >>> WassersteinRegularization().stage.value
    'gradient'
    """

    cite = LEWANDOWSKI

    strength: float = knob(
        1e-3,
        low=0.0,
        high=1e6,
        neutral=0.0,
        unit="loss per unit of R",
        source="our choice, not checked in arXiv:2406.06811",
    )
    reduce: str = option("sum", choices=("sum", "mean"))

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        return {f"{name}/sorted": view.initial[name].flatten(lead(view)).sort(-1).values for name in view.weights()}

    def gradient(self, name: str, view: View, state: State) -> Tensor | None:
        if (key := f"{name}/sorted") not in state:
            return None
        pull = 2 * away_from_sorted(view.parameters[name].flatten(lead(view)), state[key])
        if self.reduce == "mean":
            pull = pull / (pull.shape[-1] * len(state))
        return pull.reshape(view.parameters[name].shape)


def away_from_sorted(values: Tensor, reference: Tensor) -> Tensor:
    """Difference between every value and the reference of its rank: [*R, d], sorted [*R, d] -> [*R, d]."""
    rank = torch.argsort(values, dim=-1, stable=True).argsort(-1)
    return values - reference.gather(-1, rank)
