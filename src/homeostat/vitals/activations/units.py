"""Shares of dormant, active, dead and saturated units of a layer.

All functions take activations [*R, N, H] (N samples, H units, any leading replica axes) and return [*R] in 0..1. NaN
means missing: no samples, no units, a NaN or infinite activation, or a nonlinearity for which the share is not defined.
"""

# Torch's stubs leave `torch.linalg` untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob
from homeostat.core.vital import Reducers
from homeostat.vitals.activations.activation import ActivationVital
from homeostat.vitals.tensors import extremes, fraction, known, real, sample_count

RECTIFIED = frozenset({"relu", "relu6", "threshold"})
"""Nonlinearities whose output is exactly zero when the unit is off."""


def dormant_fraction(activations: Tensor, tau: float = 0.025) -> Tensor:
    """Share of units whose mean absolute activation is at most `tau` of the layer's mean.

    score_i = E_x|h_i(x)| / (1/H sum_k E_x|h_k(x)|); unit i is tau-dormant if score_i <= tau. In an all-zero layer,
    where the score is 0/0, all units are dormant: 1.0. The authors' code gives the same, by adding 1e-9 to the mean.

    Args:
        activations: [*R, N, H], after the nonlinearity.
        tau: threshold on the score.

    Returns:
        [*R], 0..1, higher is worse; NaN without samples or if an activation is not finite.

    Source: Sokar, Agarwal, Castro and Evci (2023), arXiv:2302.12902, equation 1.
    """
    return known(_dormant(_magnitude(activations), tau), sample_count(activations) > 0)


def active_fraction(activations: Tensor) -> Tensor:
    """Share of units whose activation, averaged over the inputs, is positive (FAU).

    FAU = 1/H sum_i 1[E_x h_i(x) > 0]. Defined for nonnegative activations. Missing if one activation is negative,
    because then the sign of the mean does not show activity.

    Args:
        activations: [*R, N, H], after a ReLU or another nonnegative nonlinearity.

    Returns:
        [*R], 0..1, lower is worse; NaN as above.

    Source: Ma et al. (2023), arXiv:2310.07418 ("fraction of active units").
    """
    h = real(activations)
    return known(_active(h.sum(-2), extremes(h)[0]), sample_count(activations) > 0)


def dead_fraction(activations: Tensor, nonlinearity: str = "relu") -> Tensor:
    """Share of units that are constant over the batch.

    A rectified unit (`RECTIFIED`) is dead if it is zero on every sample. Any other unit is dead if its largest and
    smallest activation agree within rounding (4 machine epsilons of the larger magnitude).

    Args:
        activations: [*R, N, H].
        nonlinearity: "relu", "tanh", ...; for "unknown" the second rule is used.

    Returns:
        [*R], 0..1, higher is worse. With a single sample the second rule gives NaN.

    Source: Lu, Shin, Su and Karniadakis (2019), arXiv:1903.06733, for rectified units.
    """
    low, high = _bounds(activations, nonlinearity)
    return known(_dead(low, high), sample_count(activations) > (0 if _plain(nonlinearity) in RECTIFIED else 1))


def saturated_fraction(
    activations: Tensor, nonlinearity: str = "tanh", threshold: float = 0.05, share: float = 0.95
) -> Tensor:
    """Share of units in a flat part of their nonlinearity for nearly all inputs.

    A sample is flat if the derivative of the nonlinearity, computed from its output and divided by its largest value,
    is at most `threshold` (tanh: 1 - h^2; sigmoid: 4h(1 - h); softsign: (1 - |h|)^2; ReLU, ReLU6, hard tanh and hard
    sigmoid: 0 at a bound and 1 elsewhere). A unit is saturated if at least `share` of the samples are flat.

    Args:
        activations: [*R, N, H].
        nonlinearity: one of `FLATNESS`; for others, which are not bounded, the value is NaN.
        threshold: relative derivative at or below which a sample counts as flat (0.05: |tanh| >= 0.975).
        share: smallest share of flat samples of a saturated unit.

    Returns:
        [*R], 0..1, higher is worse.

    Source: saturation as in Glorot and Bengio (2010), section 3; the two thresholds are our choice.
    """
    samples = sample_count(activations)
    return known(_saturated(_flat(activations, nonlinearity, threshold), samples, share), samples > 0)


Slope = Callable[[Tensor], Tensor]


def _slope_of_a_clamp(low: float, high: float) -> Slope:
    return lambda h: ((h > low) & (h < high)).to(h.dtype)


FLATNESS: Mapping[str, Slope] = {
    "relu": _slope_of_a_clamp(0.0, float("inf")),
    "threshold": _slope_of_a_clamp(0.0, float("inf")),
    "relu6": _slope_of_a_clamp(0.0, 6.0),
    "hardtanh": _slope_of_a_clamp(-1.0, 1.0),
    "hardsigmoid": _slope_of_a_clamp(0.0, 1.0),
    "tanh": lambda h: 1 - h.square(),
    "sigmoid": lambda h: 4 * h * (1 - h),
    "softsign": lambda h: (1 - h.abs()).square(),
}
"""Nonlinearity -> derivative relative to its largest value, as a function of the output."""


def _plain(nonlinearity: str) -> str:
    return nonlinearity.lower().replace("_", "").replace("-", "")


def _magnitude(activations: Tensor) -> Tensor:
    return torch.linalg.vector_norm(real(activations), 1, dim=-2)


def _dormant(magnitude: Tensor, tau: float) -> Tensor:
    quiet = magnitude <= tau * magnitude.mean(-1, keepdim=True)
    return known(fraction(quiet), magnitude.isfinite().all(-1))


def _active(total: Tensor, low: Tensor) -> Tensor:
    return known(fraction(total > 0), (total.isfinite() & (low >= 0)).all(-1))


def _bounds(activations: Tensor, nonlinearity: str) -> tuple[Tensor, Tensor]:
    low, high = extremes(real(activations))
    # with 0 as lower bound, "constant" means "zero on every sample"; 0 * NaN and 0 * inf stay NaN
    return (low * 0, high) if _plain(nonlinearity) in RECTIFIED else (low, high)


def _dead(low: Tensor, high: Tensor) -> Tensor:
    rounding = 4 * torch.finfo(low.dtype).eps * torch.maximum(low.abs(), high.abs())
    return known(fraction(high - low <= rounding), (low.isfinite() & high.isfinite()).all(-1))


def _flat(activations: Tensor, nonlinearity: str, threshold: float) -> Tensor:
    """Number of flat samples per unit [*R, H]; NaN if an activation is not finite or the nonlinearity not bounded."""
    h = real(activations)
    slope = FLATNESS.get(_plain(nonlinearity))
    if slope is None:
        return h.new_full((*h.shape[:-2], h.shape[-1]), float("nan"))
    return known((slope(h) <= threshold).to(h.dtype), h.isfinite()).sum(-2)


def _saturated(flat: Tensor, samples: Tensor, share: float) -> Tensor:
    return known(fraction(flat >= share * samples[..., None]), flat.isfinite().all(-1))


@dataclass(frozen=True, kw_only=True)
class DormantUnits(ActivationVital):
    """Share of units whose mean absolute activation is at most `tau` of the layer's mean: `dormant_fraction`.

    Settings:
        tau: threshold on the score.

    >>> from homeostat.core.snapshot import Readings
    >>> h = torch.ones(64, 1) * torch.tensor([1.0, 1.0, 1.0, 0.0])
    >>> DormantUnits()(Readings(activations={"fc1": h}, nonlinearity={"fc1": "relu"}))["fc1"]
    tensor(0.2500)
    """

    cite = Cite.of("dormant-neurons", "eq. 1")
    range = (0.0, 1.0)
    worse = "higher"
    unit = "fraction of units"
    invariant = frozenset({"units", "samples", "scale"})
    reducers: ClassVar[Reducers] = {"samples": "sum", "magnitude": "sum"}
    tau: float = knob(0.025, high=1.0, unit="of the layer's mean", source="the threshold commonly used with the paper")

    def partial(self, activations: Tensor, nonlinearity: str) -> dict[str, Tensor]:
        return {"magnitude": _magnitude(activations)}

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        return _dormant(fields["magnitude"], self.tau)


@dataclass(frozen=True, kw_only=True)
class ActiveUnits(ActivationVital):
    """Share of units with a positive mean activation (FAU): `active_fraction`. Missing if an activation is negative.

    >>> from homeostat.core.snapshot import Readings
    >>> h = torch.ones(64, 1) * torch.tensor([1.0, 1.0, 1.0, 0.0])
    >>> ActiveUnits()(Readings(activations={"fc1": h}, nonlinearity={"fc1": "relu"}))["fc1"]
    tensor(0.7500)
    """

    cite = Cite.of("adaptive-rr")
    range = (0.0, 1.0)
    worse = "lower"
    unit = "fraction of units"
    invariant = frozenset({"units", "samples", "scale"})
    reducers: ClassVar[Reducers] = {"samples": "sum", "total": "sum", "low": "min"}

    def partial(self, activations: Tensor, nonlinearity: str) -> dict[str, Tensor]:
        h = real(activations)
        return {"total": h.sum(-2), "low": extremes(h)[0]}

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        return _active(fields["total"], fields["low"])


@dataclass(frozen=True, kw_only=True)
class DeadUnits(ActivationVital):
    """Share of units that are constant over the batch: `dead_fraction`.

    >>> from homeostat.core.snapshot import Readings
    >>> h = torch.ones(64, 1) * torch.tensor([1.0, 1.0, 1.0, 0.0])
    >>> DeadUnits()(Readings(activations={"fc1": h}, nonlinearity={"fc1": "relu"}))["fc1"]
    tensor(0.2500)
    """

    min_samples: int = knob(16, low=2, unit="samples", integer=True, source="as for the other counts of units")

    cite = Cite(
        "Lu, Shin, Su and Karniadakis",
        2019,
        "Dying ReLU and Initialization: Theory and Numerical Examples",
        "1903.06733",
    )
    range = (0.0, 1.0)
    worse = "higher"
    unit = "fraction of units"
    invariant = frozenset({"units", "samples", "scale"})
    reducers: ClassVar[Reducers] = {"samples": "sum", "low": "min", "high": "max"}

    def partial(self, activations: Tensor, nonlinearity: str) -> dict[str, Tensor]:
        low, high = _bounds(activations, nonlinearity)
        return {"low": low, "high": high}

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        return _dead(fields["low"], fields["high"])


@dataclass(frozen=True, kw_only=True)
class SaturatedUnits(ActivationVital):
    """Share of units in a flat part of their nonlinearity for nearly all inputs: `saturated_fraction`.

    Settings:
        threshold: relative derivative at or below which a sample counts as flat.
        share: smallest share of flat samples of a saturated unit.

    >>> from homeostat.core.snapshot import Readings
    >>> h = torch.ones(64, 1) * torch.tensor([1.0, 1.0, 1.0, 0.0])
    >>> SaturatedUnits()(Readings(activations={"fc1": h}, nonlinearity={"fc1": "relu"}))["fc1"]
    tensor(0.2500)
    """

    cite = Cite.of("glorot-initialization", "section 3")
    range = (0.0, 1.0)
    worse = "higher"
    unit = "fraction of units"
    invariant = frozenset({"units", "samples"})
    reducers: ClassVar[Reducers] = {"samples": "sum", "flat": "sum"}
    threshold: float = knob(0.05, high=1.0, unit="of the largest derivative", source="our choice: |tanh| >= 0.975")
    share: float = knob(0.95, high=1.0, unit="fraction of samples", source="our choice")

    def partial(self, activations: Tensor, nonlinearity: str) -> dict[str, Tensor]:
        return {"flat": _flat(activations, nonlinearity, self.threshold)}

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        return _saturated(fields["flat"], fields["samples"], self.share)
