"""Consolidation: hold each weight near its earlier values, as strongly as it mattered for earlier tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob, option
from homeostat.core.snapshot import Reading
from homeostat.core.tensors import broadcast_knob
from homeostat.core.treatment import Stage, State, View
from homeostat.treatments.regularization.penalty import GradientPenalty
from homeostat.treatments.shapes import lead, statistic_dtype


@dataclass(frozen=True, kw_only=True)
class Consolidation(GradientPenalty, abstract=True):
    """Add strength * importance * (w - anchor) to the gradient, with importance and anchor set when a task ends.

    A task ends at `run.boundary()`; before the first boundary nothing is added. A subclass says what it sums up in a
    step and what importance follows from it at the end of a task.

    The gradients are those that the optimizer receives, without this penalty. If the loop clips them, the clipped ones
    are used. Non-finite gradients count as 0.
    """

    reads = frozenset({Reading.GRADIENTS})
    lines = (Stage.BOUNDARY,)
    sums: ClassVar[tuple[str, ...]]
    """What a subclass keeps for each parameter, besides importance and anchor."""

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        state: State = {}
        for name, value in view.parameters.items():
            now = value.to(statistic_dtype(value))
            own = {"importance": torch.zeros_like(now), "anchor": now.clone(), **self.begin(now)}
            own["steps"] = torch.zeros(value.shape[: lead(view)], dtype=torch.int64)
            # on the CPU, so that looking for a boundary does not wait for the device
            own["tasks"] = torch.full_like(own["steps"], view.task)
            state |= {f"{name}/{key}": kept for key, kept in own.items()}
        return state

    def gradient(self, name: str, view: View, state: State) -> Tensor | None:
        own = {key: state[f"{name}/{key}"] for key in ("importance", "anchor", "steps", "tasks", *self.sums)}
        value = view.parameters[name]
        now, gradient = (t.to(own["anchor"].dtype) for t in (value, view.gradients[name]))
        if bool((own["tasks"] < view.task).any()):  # a boundary is one of all replicas
            own |= self.consolidate(own, now) | self.begin(now)
            own |= {"steps": torch.zeros_like(own["steps"]), "tasks": torch.full_like(own["tasks"], view.task)}
        pull = own["importance"] * (now - own["anchor"]) if view.task else None
        own |= self.count(own, now, torch.nan_to_num(gradient, 0.0, 0.0, 0.0)) | {"steps": own["steps"] + 1}
        state |= {f"{name}/{key}": kept for key, kept in own.items()}
        return None if pull is None else pull.to(value.dtype)

    def begin(self, now: Tensor) -> State:
        """The sums at the beginning of a task, in which `now` are the weights."""
        raise NotImplementedError

    def count(self, own: State, now: Tensor, gradient: Tensor) -> State:
        """The sums after this step, in which `now` are the weights before the update."""
        raise NotImplementedError

    def consolidate(self, own: State, now: Tensor) -> State:
        """Importance and anchor after a task that ended with the weights `now`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ElasticWeightConsolidation(Consolidation):
    """Hold each weight near its values at the ends of earlier tasks, as strongly as the Fisher information asks.

        F_k = mean over the steps of task k of g^2
        separate:   g <- g + strength * sum_k F_k (w - w_k)
        online:     g <- g + strength * F (w - w_last),   F <- keep * F + F_k at the end of task k

    w_k are the weights at the end of task k. g is the gradient of a batch's mean loss. The Fisher information is the
    mean square of the gradient of one item's log-likelihood; squares of batch gradients are smaller than it by up to
    the batch size, so `strength` has to be larger by that factor than in papers that use single items. In exchange no
    pass over the data is needed when a task ends.

    The sum over tasks is kept as one matrix of importances and one of anchors (their mean, weighted by importance), so
    memory does not grow with tasks.

    State, for each parameter: "importance", "anchor", "squares" (running sum of g^2), "steps" and "tasks" [*R].

    Source: Kirkpatrick et al. (2017), arXiv:1612.00796, with strength = lambda; online: Schwarz et al. (2018),
    arXiv:1805.06370. The numbers of the equations were not checked.

    >>> ElasticWeightConsolidation(variant="online", keep=0.9).name
    'elastic-weight-consolidation'
    """

    cite = (
        Cite(
            "Kirkpatrick et al.",
            2017,
            "Overcoming catastrophic forgetting in neural networks",
            "1612.00796",
            "PNAS",
        ),
        Cite(
            "Schwarz et al.",
            2018,
            "Progress & Compress: A scalable framework for continual learning",
            "1805.06370",
            "ICML",
        ),
    )
    sums = ("squares",)

    strength: float = knob(
        1e3, low=0.0, high=1e12, neutral=0.0, unit="loss per squared weight and unit of F", source="our choice"
    )
    variant: str = option("separate", choices=("separate", "online"), doc="one anchor a task, or the last one alone")
    keep: float = option(1.0, doc="share of the importances that is kept at a task's end, online only")

    def begin(self, now: Tensor) -> State:
        return {"squares": torch.zeros_like(now)}

    def count(self, own: State, now: Tensor, gradient: Tensor) -> State:
        return {"squares": own["squares"].addcmul(gradient, gradient)}

    def consolidate(self, own: State, now: Tensor) -> State:
        new, old = own["squares"] / broadcast_knob(own["steps"].clamp(min=1), now), own["importance"]
        if self.variant == "online":
            return {"importance": self.keep * old + new, "anchor": now.clone()}
        total = old + new
        mean = torch.where(total > 0, (old * own["anchor"] + new * now) / torch.where(total > 0, total, 1.0), now)
        return {"importance": total, "anchor": mean}


@dataclass(frozen=True, kw_only=True)
class SynapticIntelligence(Consolidation):
    """Hold each weight near its value at the end of the last task, as strongly as its path lowered the losses.

        omega <- omega - g * (w_after - w_before)                       every step
        Omega <- Omega + max(omega, 0) / ((w_end - w_start)^2 + xi)     at the end of a task, then omega <- 0
        g <- g + 2 * strength * Omega * (w - w_end)

    -g * (w_after - w_before) is the first-order decrease of the loss by one weight in one step. Negative sums, of
    weights that moved against the loss, count as 0. The authors' code (ganguli-lab/pathint) sets the running Omega to 0
    instead where it becomes negative, so there a later task can lower the importance of a weight. A step's move is read
    at the next one, so it includes edits of other treatments.

    State, for each parameter: "importance" (2 Omega), "anchor", "omega", "start", "last" (weights at the last step),
    "pull" (its gradient), "steps" and "tasks" [*R].

    Source: Zenke, Poole and Ganguli (2017), arXiv:1703.04200. The authors' code has damping xi 0.1 for permuted
    MNIST and 1e-3 for split MNIST, and tries strengths c of 0.01, 0.1 and 1.

    >>> SynapticIntelligence(damping=0.1).name
    'synaptic-intelligence'
    """

    cite = Cite(
        "Zenke, Poole and Ganguli", 2017, "Continual Learning Through Synaptic Intelligence", "1703.04200", "ICML"
    )
    sums = ("omega", "start", "last", "pull")

    strength: float = knob(
        0.1,
        low=0.0,
        high=1e6,
        neutral=0.0,
        unit="loss per squared weight and unit of Omega",
        source="the authors' code",
    )
    damping: float = option(0.1, doc="xi, in squared weights; keeps the importance of unmoved weights finite")

    def begin(self, now: Tensor) -> State:
        zero = torch.zeros_like(now)
        return {"omega": zero, "pull": zero.clone(), "start": now.clone(), "last": now.clone()}

    def count(self, own: State, now: Tensor, gradient: Tensor) -> State:
        return {"omega": self._path(own, now), "last": now.clone(), "pull": gradient.clone()}

    def consolidate(self, own: State, now: Tensor) -> State:
        moved = (now - own["start"]).square() + self.damping
        importance = own["importance"] + 2 * self._path(own, now).clamp(min=0) / moved
        return {"importance": importance, "anchor": now.clone()}

    def _path(self, own: State, now: Tensor) -> Tensor:
        """omega with the move since the last step."""
        return torch.addcmul(own["omega"], own["pull"], now - own["last"], value=-1)
