"""Two networks of one architecture, held against each other: how far apart, what lies between, what both represent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob
from homeostat.core.readings import Reading, Readings
from homeostat.core.vital import NETWORK, Partials, Reducer, Vital
from homeostat.vitals.tensors import known, precise, real, root, square_sum

BUTTERFLY = Cite(
    "Altintas, Kwok, Raffel and Rolnick",
    2025,
    "The Butterfly Effect: Neural Network Training Trajectories Are Highly Sensitive to Initial Conditions",
    "2506.13234",
    "ICML 2025",
)


def distance(
    own: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    initial: Mapping[str, Tensor] | None = None,
    replica_axes: int = 0,
) -> Tensor:
    """Euclidean distance of two parameter sets ||w - w'||, relative to ||w_0|| where that is given.

    Args:
        own, other: name -> value [*R, *shape], the same names and shapes.
        initial: name -> value at initialisation, the same names.

    Returns:
        [*R], at least 0, exactly 0 for equal sets; NaN where an entry is not finite or the initial norm is 0.
    """
    apart = _squares({n: real(w) - real(other[n]) for n, w in own.items()}, replica_axes)
    return root(apart) if initial is None else _relative(apart, _squares(initial, replica_axes))


def mixed(own: Mapping[str, Tensor], other: Mapping[str, Tensor], share: Tensor | float) -> dict[str, Tensor]:
    """share * own + (1 - share) * other, entry by entry; exact at both ends, and everywhere between equal networks.

    What holds no real numbers (counters) is taken from `own`.
    """
    return {
        n: torch.lerp(other[n], w, torch.as_tensor(share, dtype=w.dtype, device=w.device))
        if w.is_floating_point()
        else w
        for n, w in own.items()
    }


def loss_barrier(along: Callable[[Tensor], Tensor], points: int = 11) -> Tensor:
    """How far the loss on the way between two networks rises above the straight line between its ends.

    max over a of L(a w + (1 - a) w') - a L(w) - (1 - a) L(w'), on a grid with both ends. (The authors' code takes the
    excess at the a with the largest loss, which is never larger and the same where both ends have one loss.)

    Args:
        along: a in [0, 1] -> 0-dim loss of the network a w + (1 - a) w'.
        points: a's that are tried, the ends included.

    Returns:
        0-dim, at least 0, exactly 0 between equal networks; NaN where a loss is not finite.

    Source: Frankle et al. (2020), arXiv:1912.05671; Altintas et al. (2025), arXiv:2506.13234, section 2.
    """
    shares = torch.linspace(0, 1, points)
    losses = precise(torch.stack([along(share) for share in shares]).detach())
    line = torch.lerp(losses[0], losses[-1], shares.to(losses))
    return known((losses - line).amax(), losses.isfinite().all())


def linear_cka(first: Tensor, second: Tensor) -> Tensor:
    """Linear centred kernel alignment of two representations of the same items: 1 when equal up to rotation and scale.

    ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) with centred columns.

    Args:
        first, second: [*R, N, H] and [*R, N, K].

    Returns:
        [*R], 0..1; NaN when one is constant, not finite, or has fewer than two items.

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
class TwinDistance(Vital):
    """Distance of the network from its twin, relative to the network's norm when it was attached: `distance`.

    >>> from homeostat.core.readings import Twin
    >>> w = {"fc.weight": torch.ones(4, 4)}
    >>> TwinDistance()(Readings(twin=Twin(w, {"fc.weight": torch.zeros(4, 4)}), initial=w))["network"]
    tensor(1., dtype=torch.float64)
    """

    cite = BUTTERFLY
    entries = ("butterfly-effect",)
    reads = frozenset({Reading.TWIN, Reading.INITIAL})
    range = (0.0, float("inf"))
    worse: ClassVar[Literal["higher", "lower", "neither"]] = "neither"
    unit = "of the initial norm"
    reducers: ClassVar[Mapping[str, Reducer]] = {"apart": "sum", "initial": "sum"}

    def measure(self, readings: Readings) -> Partials:
        twin, axes = readings.twin, readings.replica_axes
        if twin is None or not twin.own:
            return {}
        apart = {n: real(w) - real(twin.other[n]) for n, w in twin.own.items()}
        initial = {n: w for n, w in readings.initial.items() if n in apart}
        return {NETWORK: {"apart": _squares(apart, axes), "initial": _squares(initial, axes)}}

    def finish(self, partials: Partials) -> dict[str, Tensor]:
        return {layer: _relative(fields["apart"], fields["initial"]) for layer, fields in partials.items()}


@dataclass(frozen=True, kw_only=True)
class TwinBarrier(Vital):
    """Height of the loss, on the probe batch, between the network and its twin: `loss_barrier`.

    Zero where both lie in one linearly connected basin. Behind batch norm the running statistics are mixed like the
    weights; those of a mixture would have to be estimated anew, so the barrier is too high there.

    Settings:
        points: mixtures that are evaluated, the two networks included.

    >>> from homeostat.core.readings import Twin
    >>> twin = Twin({"w": torch.ones(1)}, {"w": -torch.ones(1)}, lambda a: (1 - (2 * a - 1) ** 2).sum())
    >>> TwinBarrier()(Readings(twin=twin))["network"]
    tensor(1., dtype=torch.float64)
    """

    cite = BUTTERFLY
    entries = ("butterfly-effect",)
    reads = frozenset({Reading.TWIN, Reading.PROBE})
    range = (0.0, float("inf"))
    worse: ClassVar[Literal["higher", "lower", "neither"]] = "neither"
    unit = "loss"
    cost: ClassVar[Literal["cheap", "moderate", "heavy"]] = "heavy"
    reducers: ClassVar[Mapping[str, Reducer]] = {"barrier": "max"}
    points: int = knob(11, low=3, high=1001, unit="mixtures", integer=True, source="the authors' code: n_points")

    def measure(self, readings: Readings) -> Partials:
        if readings.twin is None or readings.twin.along is None:
            return {}
        return {NETWORK: {"barrier": loss_barrier(readings.twin.along, self.points)}}

    def finish(self, partials: Partials) -> dict[str, Tensor]:
        return {layer: fields["barrier"] for layer, fields in partials.items()}
