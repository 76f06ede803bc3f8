"""Comparison of two networks of one architecture: distance, loss barrier, similarity of representations."""

# Torch's stubs leave `torch.linalg` untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob
from homeostat.core.snapshot import Reading, Readings
from homeostat.core.vital import NetworkVital, Reducers
from homeostat.vitals.tensors import known, precise, real, root, square_sum

BUTTERFLY = Cite.of("butterfly-effect")


def distance(
    own: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    initial: Mapping[str, Tensor] | None = None,
    replica_axes: int = 0,
) -> Tensor:
    """Euclidean distance of two parameter sets ||w - w'||, divided by ||w_0|| if `initial` is given.

    Args:
        own, other: name -> value [*R, *shape], the same names and shapes.
        initial: name -> value at initialisation, the same names.

    Returns:
        [*R], at least 0, exactly 0 for equal sets; NaN if an entry is not finite or the initial norm is 0.
    """
    apart = _squares({n: real(w) - real(other[n]) for n, w in own.items()}, replica_axes)
    return root(apart) if initial is None else _relative(apart, _squares(initial, replica_axes))


def mixed(own: Mapping[str, Tensor], other: Mapping[str, Tensor], share: Tensor | float) -> dict[str, Tensor]:
    """share * own + (1 - share) * other. Exact at both ends and for equal networks.

    Entries that are not floating point (counters) are those of `own`.
    """
    return {
        n: torch.lerp(other[n], w, torch.as_tensor(share, dtype=w.dtype, device=w.device))
        if w.is_floating_point()
        else w
        for n, w in own.items()
    }


def loss_barrier(along: Callable[[Tensor], Tensor], points: int = 11) -> Tensor:
    """Largest excess of the loss between two networks over the linear interpolation of their losses.

    max over a of L(a w + (1 - a) w') - a L(w) - (1 - a) L(w'), on a grid that includes both ends. The authors' code
    takes the excess at the a with the largest loss, which is at most as large, and equal if both ends have the same
    loss.

    Args:
        along: a in [0, 1] -> 0-dim loss of the network a w + (1 - a) w'.
        points: number of values of a, including the ends.

    Returns:
        0-dim, at least 0, exactly 0 between equal networks; NaN if a loss is not finite.

    Source: Frankle et al. (2020), arXiv:1912.05671; Altintas et al. (2025), arXiv:2506.13234, section 2.
    """
    shares = torch.linspace(0, 1, points)
    losses = precise(torch.stack([along(share) for share in shares]).detach())
    line = torch.lerp(losses[0], losses[-1], shares.to(losses))
    return known((losses - line).amax(), losses.isfinite().all())


def linear_cka(first: Tensor, second: Tensor) -> Tensor:
    """Linear centred kernel alignment of two representations of the same items: 1 if equal up to rotation and scale.

    ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) with centred columns.

    Args:
        first, second: [*R, N, H] and [*R, N, K].

    Returns:
        [*R], 0..1; NaN if one is constant, not finite, or has fewer than two items.

    Source: Kornblith et al. (2019), arXiv:1905.00414, eq. 4.
    """
    x, y = (precise(real(h)) for h in (first, second))
    x, y = (h - h.mean(-2, keepdim=True) for h in (x, y))
    square = (y.mT @ x).square().sum((-2, -1))
    norms = torch.linalg.matrix_norm(x.mT @ x) * torch.linalg.matrix_norm(y.mT @ y)
    value = square / norms
    return known(value, value.isfinite() & (norms > 0)).clamp(max=1)


def _squares(parameters: Mapping[str, Tensor], replica_axes: int) -> Tensor:
    sums = [square_sum(value, replica_axes) for value in parameters.values() if value.numel()]
    return torch.stack(sums).sum(0) if sums else torch.tensor(float("nan"))


def _relative(square: Tensor, initial: Tensor) -> Tensor:
    ratio = square / initial
    return known(ratio.sqrt(), ratio.isfinite() & square.isfinite() & (initial > 0))


@dataclass(frozen=True, kw_only=True)
class TwinDistance(NetworkVital):
    """Distance of the network from its twin, relative to the norm of the network at `attach`: `distance`.

    >>> from homeostat.core.snapshot import Twin
    >>> w = {"fc.weight": torch.ones(4, 4)}
    >>> TwinDistance()(Readings(twin=Twin(w, {"fc.weight": torch.zeros(4, 4)}), initial=w))["network"]
    tensor(1., dtype=torch.float64)
    """

    cite = BUTTERFLY
    reads = frozenset({Reading.TWIN, Reading.INITIAL})
    range = (0.0, float("inf"))
    worse = "neither"
    unit = "of the initial norm"
    reducers: ClassVar[Reducers] = {"apart": "sum", "initial": "sum"}

    def fields(self, readings: Readings) -> Mapping[str, Tensor] | None:
        twin, axes = readings.twin, readings.replica_axes
        if twin is None or not twin.own:
            return None
        apart = {n: real(w) - real(twin.other[n]) for n, w in twin.own.items()}
        initial = {n: w for n, w in readings.initial.items() if n in apart}
        return {"apart": _squares(apart, axes), "initial": _squares(initial, axes)}

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        return _relative(fields["apart"], fields["initial"])


@dataclass(frozen=True, kw_only=True)
class TwinBarrier(NetworkVital):
    """Loss barrier between the network and its twin, on the probe batch: `loss_barrier`.

    Zero if both are in one linearly connected basin. Running statistics of batch norm are interpolated like the
    weights. Statistics estimated for the interpolated weights would differ, so with batch norm the barrier is too high.

    Settings:
        points: number of interpolated networks, including the two.

    >>> from homeostat.core.snapshot import Twin
    >>> twin = Twin({"w": torch.ones(1)}, {"w": -torch.ones(1)}, lambda a: (1 - (2 * a - 1) ** 2).sum())
    >>> TwinBarrier()(Readings(twin=twin))["network"]
    tensor(1., dtype=torch.float64)
    """

    cite = BUTTERFLY
    reads = frozenset({Reading.TWIN, Reading.PROBE})
    range = (0.0, float("inf"))
    worse = "neither"
    unit = "loss"
    cost = "heavy"
    reducers: ClassVar[Reducers] = {"barrier": "max"}
    points: int = knob(11, low=3, high=1001, unit="mixtures", integer=True, source="the authors' code: n_points")

    def fields(self, readings: Readings) -> Mapping[str, Tensor] | None:
        if readings.twin is None or readings.twin.along is None:
            return None
        return {"barrier": loss_barrier(readings.twin.along, self.points)}
