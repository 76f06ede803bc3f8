"""What became of the tasks learned before: accuracy on each, and the gradients that hold and that move the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from homeostat.core.component import Cite
from homeostat.core.readings import Probe, Reading, Readings
from homeostat.core.vital import NETWORK, Partials, Reducer, Vital
from homeostat.vitals.tensors import known, precise, real, root

_CITE = Cite(
    "De Lange, van de Ven and Tuytelaars",
    2022,
    "Continual evaluation for lifelong learning: Identifying the stability gap",
    "2205.13452",
    "ICLR 2023",
)


def right(probe: Probe) -> tuple[Tensor, Tensor]:
    """How many targets of a task's items the network names, and of how many: two float64 [].

    Args:
        probe: outputs [N, C] or [N, positions, C]: the largest of C is the answer, over all classes whichever task they
            belong to. Targets: class numbers [N] or [N, positions] below C.

    The first is NaN where outputs are not finite, or targets are no class numbers for these outputs.
    """
    with torch.no_grad():
        outputs, targets = probe.outputs(probe.parameters), probe.targets
    fits = isinstance(outputs, Tensor) and isinstance(targets, Tensor) and outputs.ndim >= 2
    if not fits or outputs.shape[:-1] != targets.shape or targets.is_floating_point() or not targets.numel():
        blank = precise(torch.zeros((), device=probe.inputs.device))
        return blank + float("nan"), blank
    inside = (targets >= 0) & (targets < outputs.shape[-1])
    hits = precise(outputs.argmax(-1) == targets).sum()
    return known(hits, outputs.isfinite().all() & inside.all()), precise(torch.ones_like(targets)).sum()


def task_gradient(probes: Iterable[Probe], at: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradient of the mean of these tasks' losses with respect to each of the parameters `at`, taken there.

    Parameters that `at` lacks stay as they are in the probes, and have no gradient. Empty without tasks or parameters,
    or when no loss depends on them. Half precision is differentiated through a float32 copy.
    """
    probes = list(probes)
    names = [n for n in probes[0].parameters if n in at] if probes else []
    with torch.enable_grad():
        leaves = {n: real(at[n].detach()).clone().requires_grad_() for n in names}
        values = {n: leaf.to(at[n].dtype) for n, leaf in leaves.items()}
        losses = [real(probe.loss({**probe.parameters, **values})) for probe in probes if values]
        if not any(loss.requires_grad for loss in losses):
            return {}
        found = torch.autograd.grad(torch.stack(losses).mean(), list(leaves.values()), allow_unused=True)
    pairs = zip(leaves.items(), found, strict=True)
    return {n: torch.zeros_like(leaf) if g is None else g.detach() for (n, leaf), g in pairs}


def product(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """Inner product over all parameters that both have, float64 []; NaN when there are none."""
    shared = [(precise(g), precise(second[n])) for n, g in first.items() if n in second]
    return torch.stack([(a * b).sum() for a, b in shared]).sum() if shared else torch.full((), float("nan"))


def past(readings: Readings) -> list[Probe]:
    """The items of the tasks that have ended."""
    return [probe for task, probe in readings.tasks.items() if task != readings.present]


@dataclass(frozen=True, kw_only=True)
class TaskAccuracy(Vital):
    """Accuracy on the evaluation items of every task met so far, the present one included; a layer is a task.

        A(E_i, f_t) = share of the items of E_i whose largest output is their target's

    in evaluation mode, with the weights that are trained (not those that a treatment shows to evaluations). At every
    boundary it is measured whatever the cadence, so that accuracies at the end of a task are always there; where the
    budget sets the cadence, also 1, 2, 4, ... 128 steps after one. What the series add up to is in
    `homeostat.vitals.continual`.

    Missing where outputs are not finite or the targets are no class numbers.

    Source: De Lange, van de Ven and Tuytelaars (2022), arXiv:2205.13452, section 3 (there after every step: every=1).

    >>> from homeostat.core.draw import Draw
    >>> x, y = torch.eye(3), torch.tensor([0, 1, 1])
    >>> probe = Probe({"w": torch.ones(3)}, x, y, lambda p: x * p["w"], lambda p: (x * p["w"]).sum(), Draw(0))
    >>> TaskAccuracy()(Readings(tasks={"first": probe}))["first"]
    tensor(0.6667, dtype=torch.float64)
    """

    cite = _CITE
    entries = ("stability-gap",)
    reads = frozenset({Reading.TASKS})
    range = (0.0, 1.0)
    worse: ClassVar[Literal["higher", "lower", "neither"]] = "lower"
    unit = "share of a task's items"
    cost: ClassVar[Literal["cheap", "moderate", "heavy"]] = "moderate"
    reducers: ClassVar[Mapping[str, Reducer]] = {"right": "sum", "items": "sum"}

    def measure(self, readings: Readings) -> Partials:
        counts = {task: right(probe) for task, probe in readings.tasks.items()}
        return {task: {"right": hits, "items": items} for task, (hits, items) in counts.items()}

    def finish(self, partials: Partials) -> dict[str, Tensor]:
        return {task: fields["right"] / fields["items"] for task, fields in partials.items()}


@dataclass(frozen=True, kw_only=True)
class _GradientPart(Vital, abstract=True):
    """A norm of the gradient of tasks' losses at the weights before the step's update."""

    cite = _CITE
    entries = ("stability-gap",)
    reads = frozenset({Reading.TASKS, Reading.WEIGHTS})
    range = (0.0, float("inf"))
    worse: ClassVar[Literal["higher", "lower", "neither"]] = "neither"
    unit = "loss per unit of weight"
    cost: ClassVar[Literal["cheap", "moderate", "heavy"]] = "heavy"
    default = False
    reducers: ClassVar[Mapping[str, Reducer]] = {"square": "sum"}
    part: ClassVar[Callable[[Readings], list[Probe]]]

    def measure(self, readings: Readings) -> Partials:
        if not readings.tasks:
            return {}
        gradient = task_gradient(type(self).part(readings), readings.weights)
        return {NETWORK: {"square": product(gradient, gradient)}}

    def finish(self, partials: Partials) -> dict[str, Tensor]:
        return {layer: root(fields["square"]) for layer, fields in partials.items()}


@dataclass(frozen=True, kw_only=True)
class StableGradient(_GradientPart):
    """Norm of the gradient that would hold the past: of the mean loss on the items of all tasks that have ended.

        || grad (1/(k-1)) sum_{i<k} L(E_i; theta) ||,   theta before the step's update

    At a switch it is next to nothing if the past was learned, so that nothing opposes the plastic part. Missing until a
    task has ended. The paper takes the replayed batch; here it is the evaluation items, in evaluation mode, so that it
    can be had whatever holds the past.

    Source: De Lange, van de Ven and Tuytelaars (2022), arXiv:2205.13452, section 5 (L_stable).

    >>> from homeostat.core.draw import Draw
    >>> x, w = torch.eye(2), {"w": torch.tensor([3.0, 4.0])}
    >>> probe = Probe(w, x, x, lambda p: x * p["w"], lambda p: p["w"].square().sum() / 2, Draw(0))
    >>> StableGradient()(Readings(weights=w, tasks={"first": probe}))["network"]
    tensor(5., dtype=torch.float64)
    """

    part = staticmethod(past)


@dataclass(frozen=True, kw_only=True)
class PlasticGradient(_GradientPart):
    """Norm of the gradient that moves towards the present task: of the loss on its evaluation items.

        || grad L(E_k; theta) ||,   theta before the step's update

    Missing while the present task has no evaluation items.

    Source: De Lange, van de Ven and Tuytelaars (2022), arXiv:2205.13452, section 5 (L_plastic).

    >>> from homeostat.core.draw import Draw
    >>> x, w = torch.eye(2), {"w": torch.tensor([3.0, 4.0])}
    >>> probe = Probe(w, x, x, lambda p: x * p["w"], lambda p: p["w"].square().sum() / 2, Draw(0))
    >>> PlasticGradient()(Readings(weights=w, tasks={"first": probe}, present="first"))["network"]
    tensor(5., dtype=torch.float64)
    """

    part = staticmethod(lambda readings: [p for task, p in readings.tasks.items() if task == readings.present])


@dataclass(frozen=True, kw_only=True)
class TaskAlignment(Vital):
    """Cosine between the step's gradient and that of the loss on each past task's items; a layer is a task.

        cos(g, grad L(E_i; theta)),   g as the optimizer saw it, theta before its update

    Negative: the step's gradient raises the loss of that task (what GEM forbids). Missing where either vanishes.

    Source: Lopez-Paz and Ranzato (2017), arXiv:1706.08840, equation 6 (its sign); as a vital, this project's.

    >>> from homeostat.core.draw import Draw
    >>> x, w = torch.eye(2), {"w": torch.tensor([3.0, 4.0])}
    >>> probe = Probe(w, x, x, lambda p: x * p["w"], lambda p: p["w"].square().sum() / 2, Draw(0))
    >>> step = Readings(weights=w, gradients={"w": torch.tensor([0.0, -2.0])}, tasks={"first": probe})
    >>> TaskAlignment()(step)["first"]
    tensor(-0.8000, dtype=torch.float64)
    """

    cite = Cite("Lopez-Paz and Ranzato", 2017, "Gradient Episodic Memory for Continual Learning", "1706.08840")
    entries = ("stability-gap",)
    reads = frozenset({Reading.TASKS, Reading.WEIGHTS, Reading.GRADIENTS})
    range = (-1.0, 1.0)
    worse: ClassVar[Literal["higher", "lower", "neither"]] = "lower"
    unit = "cosine"
    cost: ClassVar[Literal["cheap", "moderate", "heavy"]] = "heavy"
    default = False
    reducers: ClassVar[Mapping[str, Reducer]] = {"both": "sum", "ours": "sum", "theirs": "sum"}

    def measure(self, readings: Readings) -> Partials:
        ended = {task: probe for task, probe in readings.tasks.items() if task != readings.present}
        return {task: self._products(probe, readings) for task, probe in ended.items()}

    def _products(self, probe: Probe, readings: Readings) -> dict[str, Tensor]:
        at = {n: readings.weights[n] for n in readings.gradients if n in readings.weights}
        theirs = task_gradient([probe], at)
        ours = {n: readings.gradients[n] for n in theirs}
        return {"both": product(ours, theirs), "ours": product(ours, ours), "theirs": product(theirs, theirs)}

    def finish(self, partials: Partials) -> dict[str, Tensor]:
        return {task: self._cosine(**fields) for task, fields in partials.items()}

    def _cosine(self, both: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
        lengths = ours.sqrt() * theirs.sqrt()
        return known((both / lengths).clamp(-1, 1), (lengths > 0) & lengths.isfinite())
