"""Continual backprop: replace the least useful mature units all the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob, option
from homeostat.core.edits import Edit
from homeostat.core.snapshot import Reading
from homeostat.core.tensors import broadcast_knob
from homeostat.core.treatment import Stage, State, Treatment, View
from homeostat.core.units import Axis, UnitGroup
from homeostat.treatments.resets.unit_resets import kept, reset_edits, touched, treatable
from homeostat.treatments.shapes import lead, statistic_dtype


@dataclass(frozen=True, kw_only=True)
class ContinualBackprop(Treatment):
    """Replace a small fraction of the least useful mature units at every step.

    Every unit i of a hidden layer has an age a, a running mean activation f and a running utility u. h is averaged over
    the batch, and over positions for a convolution:

        m_i <- eta m_i + (1 - eta) h_i               f_i <- eta f_i + (1 - eta) h_i  (mean activation)
        u_i <- eta u_i + (1 - eta) y_i               utility used: u_i / (1 - eta^a_i)

    `utility` selects y:

        contribution     |h_i| * sum_k |w_out_ki|            the algorithm of the Nature paper (Algorithm 1, eq. 1)
        mean-corrected   |h_i - f_i| * sum_k |w_out_ki|      arXiv v1, f bias-corrected
        adaptable        mean-corrected / sum_j |w_in_ij|    arXiv v1, "overall utility"
        random           a fresh uniform number per step is the score itself: a uniform choice among mature units

    Each step adds `replacement_rate` times the number of mature units (age above `maturity_threshold`) to an
    accumulator. Its integer part is the number of units replaced, lowest utility first. A replaced unit gets incoming
    weights from the layer's initial distribution, bias 0, outgoing weights 0, cleared optimizer moments of both, new
    normalisation state, age 0 and utility 0. With `fold`, its mean activation times its outgoing weights is first added
    to the consumers' biases, which keeps the mean output. This is an option of this project: Algorithm 1 of the Nature
    paper has no such step. The authors' code for fully connected networks has the line, but sets the mean activation to
    0 before it, so nothing is added; their code for convolutional networks and transformers has no such line.

    With several consumers, sum_k runs over all of them; after a flatten also over the unit's positions. sum_j runs over
    all rows of a unit (gate and value, the gates of a recurrent layer). The hidden-to-hidden weights of a recurrent
    layer are outgoing weights too. Units without a nonlinearity (attention values, LoRA ranks) are replaced only with
    `linear`. A LayerNorm, GroupNorm or RMSNorm over the units computes its statistics from all of them, so replacing a
    unit before it changes the output by more than the unit's contribution. Layers that did not run in a step keep their
    statistics. Units with non-finite activations keep their utility.

    Shapes: activations [*R, N, H]; state "<layer>/utility", "/mean", "/age" [*R, H] and "/due" [*R].
    Cost: one read by the host per step; weights are drawn only on steps that replace a unit.

    Raises:
        Refused: the network has no unit group with trainable weights.

    Source: Dohare, Hernandez-Garcia, Lan, Rahman, Mahmood, Sutton (2024), Nature 632; arXiv:2306.13812.

    >>> ContinualBackprop(replacement_rate=1e-3).settings()["maturity_threshold"]
    100
    """

    cite = Cite.of("continual-backprop")
    stage = Stage.UPDATE
    reads = frozenset({Reading.ACTIVATIONS})
    needs_units = True
    trial: ClassVar[Mapping[str, Any]] = {"replacement_rate": 0.02, "maturity_threshold": 5, "decay_rate": 0.9}
    optimizer_state = "moments cleared for the incoming and outgoing weights of replaced units"

    replacement_rate: float = knob(
        1e-4, low=0.0, high=1.0, neutral=0.0, unit="fraction of mature units per step", source="arXiv:2306.13812"
    )
    decay_rate: float = knob(0.99, low=0.0, high=0.999999, unit="per step", source="arXiv:2306.13812")
    maturity_threshold: int = knob(100, low=0, high=1e9, unit="steps", source="arXiv:2306.13812", integer=True)
    utility: str = option("contribution", choices=("contribution", "mean-corrected", "adaptable", "random"))
    fold: bool = option(False, choices=(True, False))
    linear: bool = option(False, choices=(True, False))

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        state: State = {}
        for group in treatable(self.name, view, self.linear):
            weight = view.parameters[group.weight.name]
            replicas = weight.shape[: lead(view)]
            for key in ("utility", "mean", "age"):
                state[f"{group.layer}/{key}"] = weight.new_zeros(
                    (*replicas, group.width), dtype=statistic_dtype(weight)
                )
            state[f"{group.layer}/due"] = weight.new_zeros(replicas, dtype=statistic_dtype(weight))
        return state

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        state = dict(state)
        counts: dict[UnitGroup, Tensor] = {}
        for group in treatable(self.name, view, self.linear):
            if group.layer in view.activations and f"{group.layer}/age" in state:
                counts[group] = self._advance(view, group, state, knobs)
        # most steps replace nothing: then units need not be ranked
        due = touched({group: count >= 1 for group, count in counts.items()})
        chosen: dict[UnitGroup, Tensor] = {}
        means: dict[UnitGroup, Tensor] = {}
        for group in due:
            chosen[group], means[group] = self._choose(view, group, state, knobs, counts[group])
        return reset_edits(view, touched(chosen), means if self.fold else None), state

    def _advance(self, view: View, group: UnitGroup, state: State, knobs: Mapping[str, Tensor]) -> Tensor:
        """Update the group's statistics in `state`. Return the number of units to replace [*R]."""
        utility, mean, age, due = (state[f"{group.layer}/{key}"] for key in ("utility", "mean", "age", "due"))
        eta = broadcast_knob(knobs["decay_rate"], age)
        rest, age = 1 - eta, age + 1
        acts = view.activations[group.layer].to(age.dtype)
        mean = _ahead(mean, acts.mean(-2), eta, rest)
        if self.utility != "random":
            utility = _ahead(utility, self._worth(view, group, acts, mean, age, eta), eta, rest)
        mature = age > broadcast_knob(knobs["maturity_threshold"], age)
        due = due + broadcast_knob(knobs["replacement_rate"], due) * mature.sum(-1)
        count = due.floor()
        fresh = {"utility": utility, "mean": mean, "age": age, "due": due - count}
        state.update({f"{group.layer}/{key}": value for key, value in fresh.items()})
        return count

    def _choose(
        self, view: View, group: UnitGroup, state: State, knobs: Mapping[str, Tensor], count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The units to replace, which start anew in `state`, and the mean activations of all."""
        utility, mean, age = (state[f"{group.layer}/{key}"] for key in ("utility", "mean", "age"))
        unbias = 1 - broadcast_knob(knobs["decay_rate"], age) ** age
        score = view.draw.uniform(f"{group.layer}/random", mean) if self.utility == "random" else utility / unbias
        mask = lowest(score, age > broadcast_knob(knobs["maturity_threshold"], age), count)
        fresh = {"utility": utility, "mean": mean, "age": age}
        state.update({f"{group.layer}/{key}": value.masked_fill(mask, 0.0) for key, value in fresh.items()})
        return mask, mean / unbias

    def _worth(self, view: View, group: UnitGroup, acts: Tensor, mean: Tensor, age: Tensor, eta: Tensor) -> Tensor:
        """The y of the class docstring, mean over the batch: [*R, H]."""
        if self.utility != "contribution":
            acts = acts - (mean / (1 - eta**age)).unsqueeze(-2)
        worth = acts.abs().mean(-2) * _total([_reach(view, axis, group.width) for axis in group.columns]).to(acts.dtype)
        if self.utility == "adaptable":
            inward = [_reach(view, a, group.width) for a in group.rows if view.parameters[a.name].ndim - lead(view) > 1]
            worth = worth / _total(inward).to(acts.dtype)
        return worth

    def effect(self, before: View, edits: Sequence[Edit], after: View) -> str | None:
        """Incoming weights are the fresh ones and outgoing weights are zero once the step is over."""
        return kept(edits, after)


def _reach(view: View, axis: Axis, width: int) -> Tensor:
    """Sum of the absolute weights of every unit along an axis: [*R, H]."""
    weight = view.parameters[axis.name]
    return axis.total(weight.abs(), weight.ndim - lead(view), width)


def _total(many: list[Tensor]) -> Tensor:
    return many[0] if len(many) == 1 else torch.stack(many).sum(0)


def _ahead(average: Tensor, value: Tensor, eta: Tensor, rest: Tensor) -> Tensor:
    """One step of an exponential average with `rest` = 1 - eta; non-finite values (x - x is not 0) are skipped."""
    return torch.where(value - value == 0, eta * average + rest * value, average)


def lowest(score: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """Mask [*R, H] of the `count` [*R] lowest scores among the marked units; ties go to the first."""
    ranked = torch.argsort(torch.where(among, score, torch.inf), dim=-1, stable=True).argsort(-1)
    return among & (ranked < count.unsqueeze(-1))
