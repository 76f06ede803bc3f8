"""Regularisers of the spectrum and of the distribution of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob, option
from homeostat.core.draw import Draw
from homeostat.core.edits import AddGradient, Edit
from homeostat.core.readings import Reading
from homeostat.core.treatment import Stage, State, Treatment, View
from homeostat.treatments.shapes import beside, lead, statistic_dtype

LEWANDOWSKI = Cite(
    "Lewandowski, Bortkiewicz, Kumar, Gyorgy, Schuurmans, Ostaszewski, Machado",
    2024,
    "Learning Continually by Spectral Regularization",
    "2406.06811",
    "ICLR 2025",
)
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class SpectralRegularization(Treatment):
    """Keep the largest singular value of every weight near 1, so that no layer stretches or swallows directions.

    The gradient of strength * R is added to the loss's gradient, with k = `power` and

        R = sum over weights (sigma_1(W)^k - 1)^2 + sum over biases ||b||^(2k) + sum over norm scales (g_i^k - 1)^2

    Kernels are seen as matrices [out, in*kh*kw]. sigma_1 = u^T W v comes from one step of power iteration per update,
    v <- W^T u / ||.|| after u <- W v / ||.||, with v kept between steps, and its gradient is u v^T. Shifts of norm
    layers count as biases. Only parameters with a gradient this step are pulled.

    The paper's text fixes the weight term; the forms of the bias and scale terms are this project's reading of it
    (biases towards 0, scales towards 1, with the same power) and `vectors=False` leaves them out.

    State: "<parameter>/v", the right singular vector [*R, in*kh*kw].

    Source: Lewandowski et al. (2024), arXiv:2406.06811, spectral regulariser with k = 2.

    >>> SpectralRegularization(strength=1e-3).power
    2
    """

    cite = LEWANDOWSKI
    entries = ("spectral-regularization",)
    stage = Stage.GRADIENT
    reads = frozenset({Reading.GRADIENTS})

    strength: float = knob(
        1e-3,
        low=0.0,
        high=10.0,
        neutral=0.0,
        unit="loss per unit of R",
        source="house choice, not checked in arXiv:2406.06811",
    )
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

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        state, edits, weights = dict(state), [], view.weights()
        for name in view.gradients:
            value = view.parameters[name]
            if f"{name}/v" in state and name in weights:
                gradient, state[f"{name}/v"] = self._matrix(value, state[f"{name}/v"], lead(view))
            elif self.vectors and name not in weights:
                gradient = self._vector(value, scale=name in view.norms and name.endswith("weight"), view=view)
            else:
                continue
            edits.append(AddGradient(name, beside(knobs["strength"], gradient) * gradient))
        return edits, state

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
        return 2 * k * beside(squared ** (k - 1), value) * value


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
class WassersteinRegularization(Treatment):
    """Pull the distribution of every weight's entries towards the distribution they had at initialisation.

    The gradient of strength * R is added to the loss's gradient, with

        R = sum_l ||sort(vec W_l) - sort(vec W_l^0)||^2        reduce="sum": comparable with L2Init's strength
        R = mean_l ||sort(vec W_l) - sort(vec W_l^0)||^2 / d_l  reduce="mean": the squared 2-Wasserstein distance

    The entry of rank r is pulled towards the initial entry of rank r, so entries may change places freely: looser than
    `L2Init`. Ties are matched in the order of their positions. Weights and kernels only, and only those that have a
    gradient this step.

    State: "<parameter>/sorted", the initial entries in order [*R, d]. Cost: one sort of every weight per step.

    Source: Lewandowski et al. (2024), arXiv:2406.06811 v1, Wasserstein regularisation towards the initial distribution.

    >>> WassersteinRegularization().stage.value
    'gradient'
    """

    cite = LEWANDOWSKI
    entries = ("spectral-regularization",)
    stage = Stage.GRADIENT
    reads = frozenset({Reading.GRADIENTS, Reading.INITIAL})

    strength: float = knob(
        1e-3,
        low=0.0,
        high=1e6,
        neutral=0.0,
        unit="loss per unit of R",
        source="house choice, not checked in arXiv:2406.06811",
    )
    reduce: str = option("sum", choices=("sum", "mean"))

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        return {f"{name}/sorted": view.initial[name].flatten(lead(view)).sort(-1).values for name in view.weights()}

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        edits = []
        for name in view.gradients:
            if (key := f"{name}/sorted") in state:
                pull = 2 * away_from_sorted(view.parameters[name].flatten(lead(view)), state[key])
                if self.reduce == "mean":
                    pull = pull / (pull.shape[-1] * len(state))
                pull = pull.reshape(view.parameters[name].shape)
                edits.append(AddGradient(name, beside(knobs["strength"], pull) * pull))
        return edits, state


def away_from_sorted(values: Tensor, reference: Tensor) -> Tensor:
    """Difference between every value and the reference of its rank: [*R, d], sorted [*R, d] -> [*R, d]."""
    rank = torch.argsort(values, dim=-1, stable=True).argsort(-1)
    return values - reference.gather(-1, rank)
