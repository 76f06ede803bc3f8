"""UPGD: protect useful weights, and perturb those that are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob
from homeostat.core.edits import Edit, SetValues
from homeostat.core.snapshot import Reading
from homeostat.core.tensors import broadcast_knob
from homeostat.core.treatment import Stage, State, Treatment, View
from homeostat.treatments.shapes import lead, statistic_dtype


@dataclass(frozen=True, kw_only=True)
class Upgd(Treatment):
    """Reduce the optimizer's update of a weight by its utility, and add noise reduced in the same way.

        u <- decay * u + (1 - decay) * (-g * w)              w before the update, u: its utility
        s = sigmoid(u / max u)                               the maximum over all weights of the network
        w <- w + (1 - s) * (update - rate * noise * xi)      xi: standard normal

    `update` is what the optimizer did in this step, `rate` its learning rate. -g * w estimates by how much the loss
    would rise if the weight were removed. With plain SGD this is the authors' global first-order UPGD. With another
    optimizer its update is gated in the place of -rate * g, as in their adaptive variant. Weight decay is a part of
    the update here, so it is gated too; theirs is not.

    Both the utility and its maximum are running averages with the same number of terms, so their bias corrections
    cancel. The authors' code (mohmdelsayed/upgd) corrects the utility alone, which makes s nearly 0 or 1 in the first
    1 / (1 - decay) steps; afterwards the two agree. While no utility is positive, s = 1/2.

    State: "<parameter>", its utility, in at least float32. Parameters without a gradient are not changed. Non-finite
    utilities are not added.

    Cost: a step of a small network on the CPU takes about three times as long; nearly half of what is added are
    the normal draws.

    Source: Elsayed and Mahmood (2024), arXiv:2404.00781, and the authors' code. The defaults are our choice, not
    checked in the paper.

    >>> Upgd(noise=0.01).name
    'upgd'
    """

    name = "upgd"
    cite = Cite(
        "Elsayed and Mahmood",
        2024,
        "Addressing Loss of Plasticity and Catastrophic Forgetting in Continual Learning",
        "2404.00781",
        "ICLR",
    )
    stage = Stage.UPDATE
    reads = frozenset({Reading.GRADIENTS, Reading.UPDATES})
    optimizer_state = "not edited: it follows the gradients as before, while the weights move less than it asks"

    share: float = knob(1.0, low=0.0, high=1.0, neutral=0.0, unit="share of this update", source="the whole update")
    decay: float = knob(0.999, low=0.0, high=0.999999, unit="1/update", source="our choice")
    noise: float = knob(1e-3, low=0.0, high=10.0, unit="gradient", source="our choice")

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        return {
            name: torch.zeros(value.shape, dtype=statistic_dtype(value), device=value.device)
            for name, value in view.parameters.items()
        }

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        names = [name for name in view.gradients if name in view.before and view.before[name].numel()]
        if not names:
            return [], state
        after = dict(state)
        for name in names:
            after[name] = self._utility(view, state[name], name, knobs)
        best = _largest([after[name] for name in names], lead(view))
        edits: list[Edit] = []
        for name in names:
            now, was, u = view.parameters[name], view.before[name], after[name]
            most = broadcast_knob(best, u)
            gate = 1 - torch.sigmoid(torch.where(most > 0, u / torch.where(most > 0, most, 1.0), 0.0))
            kick = view.learning_rate * broadcast_knob(knobs["noise"], u) * view.draw.normal(name, u)
            moved = (was.to(u.dtype) + gate * (now.to(u.dtype) - was.to(u.dtype) - kick)).to(now.dtype)
            share = broadcast_knob(knobs["share"], now)
            edits.append(SetValues(name, torch.where(share > 0, torch.lerp(now, moved, share), now)))
        return edits, after

    def _utility(self, view: View, held: Tensor, name: str, knobs: Mapping[str, Tensor]) -> Tensor:
        new = -view.gradients[name].to(held.dtype) * view.before[name].to(held.dtype)
        moved = torch.lerp(held, new, 1 - broadcast_knob(knobs["decay"], held))
        return torch.where(new.isfinite(), moved, held)


def _largest(utilities: Sequence[Tensor], replicas: int) -> Tensor:
    """The largest utility of the network [*R]."""
    each = [u.flatten(replicas).amax(-1) if u.ndim > replicas else u for u in utilities]
    return torch.stack([e.to(each[0].dtype) for e in each]).amax(0)
