"""Sharpness: the largest eigenvalue of the loss's Hessian on the probe batch, from Hessian-vector products."""

# Torch's stubs leave `torch.linalg` untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob
from homeostat.core.snapshot import Probe, Reading, Readings
from homeostat.core.vital import NetworkVital, Reducers
from homeostat.vitals.tensors import flat_parameters, known


class Eigenpair(NamedTuple):
    """An eigenvalue [], its unit vector [P] (the next call's `start`), the residual ||Hx - value x|| [], and whether
    the residual is within the tolerance."""

    value: Tensor
    vector: Tensor
    residual: Tensor
    converged: Tensor


def sharpness(
    probe: Probe, start: Tensor | None = None, tolerance: float = 0.01, iterations: int = 60
) -> tuple[Tensor, Tensor]:
    """Largest algebraic eigenvalue of the Hessian of `probe.loss`, and its eigenvector.

    Args:
        probe: the probe; its loss must be twice differentiable.
        start: first vector [P] (all parameters, flattened in order), for a warm start the last eigenvector. Default:
            drawn from `probe.draw`.
        tolerance: largest residual ||Hx - value x||, as a share of the value; it bounds the distance to an eigenvalue.
        iterations: largest number of Hessian-vector products.

    Returns:
        The value, float32 [], and the vector [P]. The value is NaN if it did not converge, is not finite, or if the
        loss does not depend on a parameter. It is negative where the loss is concave in every direction.

    Cost: one gradient and about two backward passes per product; usually 10 to 40 products.

    Source: Cohen, Kaur, Li, Kolter and Talwalkar (2021), arXiv:2103.00065.
    """
    hessian = hessian_product(probe)
    flat, _ = flat_parameters(probe.parameters)
    if hessian is None:
        return flat.new_full((), float("nan")), flat
    if start is None:
        start = probe.draw.normal("sharpness", flat)
    pair = top_eigenpair(hessian, start, tolerance, iterations)
    return known(pair.value, pair.converged), pair.vector


def edge(sharpness: Tensor | float, learning_rate: Tensor | float) -> Tensor | float:
    """Sharpness times learning rate over 2. Plain full-batch gradient descent is unstable above 1.

    Source: Cohen et al. (2021), arXiv:2103.00065 (sharpness 2/learning rate). Momentum and adaptive methods have other
    thresholds.
    """
    return sharpness * learning_rate / 2


def hessian_product(probe: Probe) -> Callable[[Tensor], Tensor] | None:
    """v [P] -> Hv [P] at the probe's parameters, or None if the loss does not depend on them.

    Parameters in half precision are differentiated through a float32 copy.
    """
    flat, named = flat_parameters(probe.parameters)
    if flat.numel() == 0:
        return None
    with torch.enable_grad():
        flat.requires_grad_()
        loss = probe.loss(named(flat))
        if not loss.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(loss, flat, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        if not gradient.requires_grad:
            return 0 * gradient
        return torch.autograd.grad(gradient, flat, vector.to(flat.dtype), retain_graph=True)[0]

    return product


def top_eigenpair(
    product: Callable[[Tensor], Tensor], start: Tensor, tolerance: float = 0.01, iterations: int = 60
) -> Eigenpair:
    """Largest algebraic eigenvalue of a symmetric operator, by locally optimal conjugate gradient.

    Each step takes the best vector in the span of the iterate, its residual and its previous move (Knyazev 2001, LOBPCG
    with one vector). It needs one product per step and four vectors of memory. Unlike power iteration, it needs no
    shift for a large negative eigenvalue and converges like conjugate gradient.

    Args:
        product: v [P] -> Av [P].
        start: first vector [P], not 0.
        tolerance: share of the value. Iteration stops at a residual of a tenth of it; up to the whole is accepted, plus
            1e-5 of the largest eigenvalue found, for rounding of the operator.
        iterations: largest number of products.

    A start almost orthogonal to the top eigenvector may converge to the second. This happened in 1 of 1,500 random
    symmetric matrices of up to 80 rows; the value was up to 6% of the spectral radius too low. To stop early, the host
    reads the residual once per step.
    """
    x = start / torch.linalg.vector_norm(start)
    hx = product(x)
    value = x @ hx
    radius, p, hp = value.abs(), torch.zeros_like(x), torch.zeros_like(x)
    used = 1
    while used < iterations - 1:
        r = hx - value * x
        if not bool(torch.linalg.vector_norm(r) > _allowed(value, radius, tolerance / 10)):
            break
        w = _orthonormal(r, (x,))
        p, hp = _orthonormal_pair(p, hp, x, hx, w, hw := product(w))
        x, hx, p, hp, radius = _best(torch.stack([x, w, p]), torch.stack([hx, hw, hp]), radius)
        value, used = x @ hx, used + 1
    hx = product(x)
    value = x @ hx
    residual = torch.linalg.vector_norm(hx - value * x)
    return Eigenpair(value, x, residual, residual <= _allowed(value, radius, tolerance))


def _allowed(value: Tensor, radius: Tensor, tolerance: float) -> Tensor:
    return tolerance * value.abs() + 1e-5 * radius


def _orthonormal(vector: Tensor, against: tuple[Tensor, ...]) -> Tensor:
    for unit in (*against, *against):
        vector = vector - (unit @ vector) * unit
    return vector / torch.linalg.vector_norm(vector)


def _orthonormal_pair(p: Tensor, hp: Tensor, x: Tensor, hx: Tensor, w: Tensor, hw: Tensor) -> tuple[Tensor, Tensor]:
    """The last move and its product, orthogonal to x and w; zero if nothing remains."""
    before = torch.linalg.vector_norm(p)
    for unit, image in ((x, hx), (w, hw), (x, hx), (w, hw)):
        share = unit @ p
        p, hp = p - share * unit, hp - share * image
    norm = torch.linalg.vector_norm(p)
    kept = norm > 1e-3 * before
    inverse = torch.where(kept, 1 / norm, 0.0)
    return torch.where(kept, p * inverse, 0.0), torch.where(kept, hp * inverse, 0.0)


def _best(basis: Tensor, images: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rayleigh-Ritz in three orthonormal rows (the third may be zero): next x, Ax, move, A move, spectral radius."""
    small = basis @ images.mT
    small = (small + small.mT) / 2
    absent = (basis[2] @ basis[2] < 0.5).to(small.dtype)
    # a zero row would add a spurious eigenvalue 0; its eigenvalue is set below the others
    below = small[0, 0] - small.abs().sum()
    small = small + absent * below * torch.diag(small.new_tensor([0.0, 0.0, 1.0]))
    ok = small.isfinite().all()
    values, vectors = torch.linalg.eigh(small.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
    c = known(vectors[:, -1], ok)
    x = c @ basis
    norm = torch.linalg.vector_norm(x)
    move, image = c[1:] @ basis[1:], c[1:] @ images[1:]
    return x / norm, (c @ images) / norm, move, image, torch.maximum(radius, values[-1].abs())


@dataclass(frozen=True, kw_only=True)
class Sharpness(NetworkVital):
    """Largest eigenvalue of the loss's Hessian on the probe batch: `sharpness`. Missing if it did not converge.

    Settings:
        tolerance: largest residual, as a share of the value.
        iterations: largest number of Hessian-vector products.

    >>> from homeostat.core.random import Draw
    >>> x = torch.eye(2)
    >>> probe = Probe({"w": torch.ones(2)}, x, x, lambda p: x * p["w"], lambda p: (x * p["w"]).square().sum(), Draw(0))
    >>> Sharpness()(Readings(probe=probe))["network"].round(decimals=3)
    tensor(2.)
    """

    cite = Cite.of("edge-of-stability")
    reads = frozenset({Reading.PROBE})
    range = (float("-inf"), float("inf"))
    worse = "higher"
    unit = "loss per squared unit of weight"
    cost = "heavy"
    reducers: ClassVar[Reducers] = {"value": "max"}
    tolerance: float = knob(
        0.01, low=1e-6, high=1.0, unit="share of the value", source="our choice: far below the drift of the value"
    )
    iterations: int = knob(
        60, low=3, high=10_000, unit="products", integer=True, source="our choice: 2 to 4 times the usual number"
    )

    def fields(self, readings: Readings) -> Mapping[str, Tensor] | None:
        if readings.probe is None:
            return None
        value, _ = sharpness(readings.probe, None, self.tolerance, self.iterations)
        return {"value": value.detach()}
