"""GraNet: gradual pruning with regeneration of connections."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob, option
from homeostat.core.edits import ClearMoments, Edit, SetValues
from homeostat.core.errors import BadSetting, Refused
from homeostat.core.random import Draw
from homeostat.core.snapshot import Reading
from homeostat.core.treatment import Periodic, Stage, State, View
from homeostat.treatments.resets.unit_resets import kept
from homeostat.treatments.shapes import lead
from homeostat.treatments.sparsity import masks

_LOWEST_FRACTION = 0.005
"""Final regenerated fraction, in the authors' code."""


@dataclass(frozen=True, kw_only=True)
class GraNet(Periodic):
    """Prune gradually to a global sparsity. After each pruning, exchange a fraction of the active weights.

    Every `every` steps from `begin` on, at step t:

        s_t = s_f + (s_i - s_f) (1 - (t - begin) / (end - begin))^3      s_f from step `end` on
        prune       keep the round(N (1 - s_t)) largest active weights by |w|, of all N weights of the network
        regenerate  in each layer deactivate the ceil(r_t n) smallest of its n active weights, then activate as many of
                    the inactive ones, by largest |dL/dw| in the gradient of this step

    with s_f = `sparsity`, s_i = min(`initial`, s_f), and r_t annealed from `regrow` to 0.005 along half a cosine over
    `horizon` steps; later nothing is exchanged. Sparsity is exact at every step. An activated weight starts at 0 with
    cleared optimizer moments; a weight that is deactivated and activated in the same step keeps its value. After each
    update inactive weights are set to 0 again, whatever the optimizer did to them (momentum, decay).

    `regrow=0` is gradual magnitude pruning (Zhu, Gupta 2017). With `initial` above 0 training is sparse from the end of
    the first step: the active weights of each layer are drawn at random, with a density in proportion to
    sum(shape) / prod(shape) (Erdos-Renyi kernel). `growth="random"` activates at random, like SET (Mocanu et al. 2018),
    but from 0.

    All weight matrices and kernels are pruned, including first and last layer, embedding tables and tied weights (as
    one weight), but not biases and norms. A layer may lose all its weights and then stays empty. A layer without a
    gradient is not exchanged. Lowering `sparsity` during training restores no weight. Averaged copies are pruned too.
    After `detach` the weights are no longer held at zero.

    State: "<parameter>/mask", bool [*R, *shape]. Cost of a pruning: one sort of all weights, two of each layer.

    Raises:
        BadSetting: the steps are not in order.
        Refused: there are no weights; a weight is computed from other parameters (parametrized); a gradient is sparse.

    Source: Liu et al. (2021), arXiv:2106.10404, section 4, and the authors' code. Counts differ from that code by a few
    weights: there ties and rounding decide, the last pruning is one interval before `end` and so just misses s_f, the
    first masks have the right density only on average, and regeneration does not end. With Adam, their code keeps the
    moments of a weight that is activated; here they are cleared. The default schedule is that of their CIFAR runs (160
    epochs of 391 steps, pruning in the first half), rounded.

    >>> GraNet(sparsity=0.95, every=100, end=2000, horizon=4000).due(50)
    False
    """

    name = "granet"
    cite = (
        Cite.of("granet"),
        Cite(
            "Zhu and Gupta",
            2017,
            "To prune, or not to prune: exploring the efficacy of pruning for model compression",
            "1710.01878",
        ),
    )
    stage = Stage.UPDATE
    reads = frozenset({Reading.GRADIENTS})
    after = ("continual-backprop", "redo", "shrink-and-perturb")
    optimizer_state = "moments cleared for weights that are activated"
    trial: ClassVar[Mapping[str, Any]] = {"sparsity": 0.6, "initial": 0.2, "every": 3, "end": 12, "horizon": 30}

    sparsity: float = knob(
        0.9, low=0.0, high=1.0, neutral=0.0, unit="fraction of all weights", source="arXiv:2106.10404"
    )
    regrow: float = knob(0.5, low=0.0, high=1.0, unit="fraction of active weights", source="the authors' code")
    initial: float = option(0.0, doc="sparsity at the beginning; 0.5 for sparse-to-sparse training")
    begin: int = option(0)
    end: int = option(30_000)
    horizon: int = option(60_000)
    growth: str = option("gradient", choices=("gradient", "random"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.initial < 1:
            raise BadSetting(f"{self.name}.initial must be a sparsity of at least 0 and below 1, got {self.initial!r}")
        if not 0 <= self.begin < self.end <= self.horizon:
            found = f"got {self.begin!r}, {self.end!r}, {self.horizon!r}"
            raise BadSetting(f"{self.name}: steps must be in the order 0 <= begin < end <= horizon, {found}")

    @property
    def first(self) -> int:
        """The first step with a pruning."""
        return self.begin or self.every

    def due(self, step: int) -> bool:
        return self.initial > 0 or step >= self.first

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        weights, replicas = self._weights(view), lead(view)
        shapes = [weight.shape[replicas:] for weight in weights.values()]
        active = round(sum(map(math.prod, shapes)) * (1 - min(self.initial, self.sparsity)))
        counts = masks.erdos_renyi_kernel(shapes, active)
        # not view.draw itself: the masks must not depend on the step at which the treatment begins
        found = masks.scattered(weights, counts, Draw(view.draw.seed, (self.name,)), replicas)
        return {f"{name}/mask": mask for name, mask in found.items()}

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        weights = {name: weight for name, weight in self._weights(view).items() if f"{name}/mask" in state}
        active = {name: state[f"{name}/mask"] for name in weights}
        if view.step < self.first or (view.step - self.begin) % self.every:
            return [_hold(name, mask) for name, mask in active.items()], state
        stayed = masks.prune(weights, active, self._count(view, active, knobs), lead(view))
        now = {name: self._exchanged(view, name, mask, knobs) for name, mask in stayed.items()}
        edits: list[Edit] = []
        for name, mask in now.items():
            edits += [_hold(name, mask & stayed[name]), ClearMoments(name, mask & ~stayed[name])]
        return edits, {**state, **{f"{name}/mask": mask for name, mask in now.items()}}

    def _weights(self, view: View) -> dict[str, Tensor]:
        weights = view.weights()
        if not weights:
            raise Refused(self.name, "the network", "it has no trainable weight matrix or kernel to prune")
        for name in weights:
            if _derived(name, view.parameters):
                why = (
                    "a weight is computed from it (a parametrization), and zeros in it need not be zeros of that weight"
                )
                raise Refused(self.name, name, why)
        return weights

    def _count(self, view: View, active: Mapping[str, Tensor], knobs: Mapping[str, Tensor]) -> Tensor:
        """Number of active weights after this step's pruning: int64 [] or [*R]."""
        end = knobs["sparsity"]
        now = masks.cubic((view.step - self.begin) / (self.end - self.begin), end.clamp(max=self.initial), end)
        total = sum(mask[(0,) * lead(view)].numel() for mask in active.values())
        return (total * (1 - now)).round().to(torch.int64)

    def _exchanged(self, view: View, name: str, mask: Tensor, knobs: Mapping[str, Tensor]) -> Tensor:
        if view.step > self.horizon or name not in view.gradients:
            return mask
        gradient = view.gradients[name]
        if gradient.layout != torch.strided:
            raise Refused(self.name, name, "its gradient is sparse, so inactive weights have none to be chosen by")
        score = gradient.abs()
        if self.growth == "random":
            score = view.draw.uniform(f"{name}/grow", gradient.to(torch.promote_types(gradient.dtype, torch.float32)))
        fraction = masks.cosine(view.step / self.horizon, knobs["regrow"], _LOWEST_FRACTION)
        return masks.regenerate(view.parameters[name], mask, score, fraction, lead(view))

    def effect(self, before: View, edits: Sequence[Edit], after: View) -> str | None:
        """After the step, inactive and newly activated weights are exactly zero."""
        return kept(edits, after)


def _hold(name: str, mask: Tensor) -> SetValues:
    return SetValues(name, mask.new_zeros((), dtype=torch.float32), ~mask)


def _derived(name: str, parameters: Mapping[str, Tensor]) -> bool:
    """Whether a parametrization (of torch's current or older kind) computes a weight from this parameter."""
    pair = {"g": "v", "v": "g"}.get(name[-1], "")
    return ".parametrizations." in f".{name}" or name.endswith("_orig") or (
        name[-2:-1] == "_" and f"{name[:-1]}{pair}" in parameters and bool(pair)
    )  # fmt: skip
