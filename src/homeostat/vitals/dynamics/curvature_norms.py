"""Trace and Frobenius norm of the loss's Hessian on the probe batch, from products with random signs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob
from homeostat.core.snapshot import Probe, Reading, Readings
from homeostat.core.vital import NetworkVital, Reducers
from homeostat.vitals.dynamics.curvature import hessian_product
from homeostat.vitals.tensors import flat_parameters, known

_DYNAMICAL_STABILITY = Cite.of("sgd-dynamical-stability")


class HessianMoments(NamedTuple):
    """Trace [] and squared Frobenius norm [] of the Hessian: means over the draws, NaN if not known."""

    trace: Tensor
    square: Tensor


def hessian_moments(probe: Probe, draws: int = 32) -> HessianMoments:
    """Trace and squared Frobenius norm of the Hessian H of `probe.loss`.

    For random signs v (+1 or -1 with equal probability), the mean of v'Hv is Tr H (Hutchinson 1989) and the mean of
    ||Hv||^2 is ||H||_F^2, from the same products. The standard deviation of one v'Hv is sqrt(2 ||H||_F^2 - 2 sum_i
    H_ii^2). With at least as many draws as parameters, unit vectors are used and both are exact.

    Args:
        probe: the probe; its loss must be twice differentiable.
        draws: number of Hessian-vector products, each about two backward passes.

    Returns:
        Both float32 [] (float64 if the parameters are); NaN if the loss does not depend on a parameter or is not
        finite. The trace may be negative away from a minimum.
    """
    product = hessian_product(probe)
    flat, _ = flat_parameters(probe.parameters)
    if product is None:
        missing = flat.new_full((), float("nan"))
        return HessianMoments(missing, missing)
    directions, weight = _directions(probe, flat, draws)
    images = torch.stack([product(v) for v in directions]).detach()
    trace, square = (directions * images).sum() * weight, images.square().sum() * weight
    return HessianMoments(known(trace, trace.isfinite()), known(square, square.isfinite()))


def _directions(probe: Probe, flat: Tensor, draws: int) -> tuple[Tensor, float]:
    """Vectors [draws, P] and the weight of each."""
    if flat.numel() <= draws:
        return torch.eye(flat.numel(), dtype=flat.dtype, device=flat.device), 1.0
    uniform = probe.draw.uniform("hessian signs", flat.new_empty(draws, flat.numel()))
    return torch.where(uniform < 0.5, -1.0, 1.0).to(flat.dtype), 1 / draws


def stochastic_edge(trace: Tensor | float, learning_rate: Tensor | float) -> Tensor | float:
    """Trace of the Hessian times learning rate over 2. Above 1 SGD with one item per step leaves this minimum.

    This holds at a minimum that fits every item exactly, for the loss 1/2 (f(x) - y)^2 averaged over the items, without
    momentum. The bound for full batches (`edge`) concerns only the largest eigenvalue, so it is weaker.

    Source: Wu and Su (2023), arXiv:2305.17490: a linearly stable minimum of SGD has Tr H <= 2 / learning rate.
    """
    return trace * learning_rate / 2


@dataclass(frozen=True, kw_only=True)
class HessianTrace(NetworkVital):
    """Trace of the loss's Hessian on the probe batch, the sum of all curvatures: `hessian-trace`.

    With the learning rate it bounds at which minima SGD is stable (`stochastic_edge`), as the sharpness does for
    full-batch gradient descent.

    Settings:
        draws: number of Hessian-vector products; 32 give a standard error of about ||H||_F / 4.

    >>> from homeostat.core.random import Draw
    >>> x = torch.eye(2)
    >>> probe = Probe({"w": torch.ones(2)}, x, x, lambda p: x * p["w"], lambda p: (x * p["w"]).square().sum(), Draw(0))
    >>> HessianTrace()(Readings(probe=probe))["network"]
    tensor(4.)
    """

    cite = _DYNAMICAL_STABILITY
    reads = frozenset({Reading.PROBE})
    range = (float("-inf"), float("inf"))
    worse = "higher"
    unit = "loss per squared unit of weight"
    cost = "heavy"
    default = False
    reducers: ClassVar[Reducers] = {"trace": "max"}
    draws: int = knob(
        32, low=1, high=100_000, unit="products", integer=True, source="our choice: error of a quarter of ||H||_F"
    )

    def fields(self, readings: Readings) -> Mapping[str, Tensor] | None:
        if readings.probe is None:
            return None
        return {"trace": hessian_moments(readings.probe, self.draws).trace}


@dataclass(frozen=True, kw_only=True)
class HessianNorm(NetworkVital):
    """Frobenius norm of the loss's Hessian on the probe batch, root of the summed squared curvatures: `hessian-norm`.

    It lies between the sharpness and the trace if all curvatures are positive. The noise of SGD bounds it too, but that
    bound depends on the alignment of noise and curvature, so there is no edge for it here.

    Settings:
        draws: number of Hessian-vector products.

    >>> from homeostat.core.random import Draw
    >>> x = torch.eye(2)
    >>> probe = Probe({"w": torch.ones(2)}, x, x, lambda p: x * p["w"], lambda p: (x * p["w"]).square().sum(), Draw(0))
    >>> HessianNorm()(Readings(probe=probe))["network"]
    tensor(2.8284)
    """

    cite = _DYNAMICAL_STABILITY
    reads = frozenset({Reading.PROBE})
    range = (0.0, float("inf"))
    worse = "higher"
    unit = "loss per squared unit of weight"
    cost = "heavy"
    default = False
    reducers: ClassVar[Reducers] = {"square": "max"}
    draws: int = knob(32, low=1, high=100_000, unit="products", integer=True, source="our choice: as for the trace")

    def fields(self, readings: Readings) -> Mapping[str, Tensor] | None:
        if readings.probe is None:
            return None
        return {"square": hessian_moments(readings.probe, self.draws).square}

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        return fields["square"].sqrt()
