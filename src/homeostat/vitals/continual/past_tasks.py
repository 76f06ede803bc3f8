"""Vitals of past tasks: accuracy on each task, and gradients of the losses of past and current tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from homeostat.core.component import Cite
from homeostat.core.snapshot import Probe, Reading, Readings
from homeostat.core.vital import LayerVital, NetworkVital, Partials, Reducers
from homeostat.vitals.tensors import known, precise, real, root

_CITE = Cite.of("stability-gap")


def right(probe: Probe) -> tuple[Tensor, Tensor]:
    """Number of correct predictions on a task's items, and number of predictions: two float64 [].

    Args:
        probe: outputs [N, C] or [N, positions, C]; the prediction is the largest of all C classes, of whatever task.
            Targets: class numbers [N] or [N, positions] below C.

    The first is NaN if an output is not finite, or if the targets are not class numbers for these outputs.
    """
    with torch.no_grad():
        outputs, targets = probe.outputs(probe.parameters), probe.targets
    given = cast(tuple[object, object], (outputs, targets))  # a user's network may return any type
    if (
        not all(isinstance(one, Tensor) for one in given)
        or outputs.ndim < 2
        or outputs.shape[:-1] != targets.shape
        or targets.is_floating_point()
        or not targets.numel()
    ):
        blank = precise(torch.zeros((), device=probe.inputs.device))
        return blank + float("nan"), blank
    inside = (targets >= 0) & (targets < outputs.shape[-1])
    hits = precise(outputs.argmax(-1) == targets).sum()
    return known(hits, outputs.isfinite().all() & inside.all()), precise(torch.ones_like(targets)).sum()


def task_gradient(probes: Iterable[Probe], at: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradient of the mean of these tasks' losses with respect to the parameters, at the values `at`.

    Parameters not in `at` have their values in the probes and no gradient. Empty without tasks or parameters, or if no
    loss depends on them. Half precision is differentiated through a float32 copy.
    """
    probes = list(probes)
    names = [n for n in probes[0].parameters if n in at] if probes else []
    with torch.enable_grad():
        leaves = {n: real(at[n].detach()).clone().requires_grad_() for n in names}
        values = {n: leaf.to(at[n].dtype) for n, leaf in leaves.items()}
        losses = [real(probe.loss({**probe.parameters, **values})) for probe in probes if values]
        if not any(loss.requires_grad for loss in losses):
            return {}
        mean = torch.stack(losses).mean()
        gradients = torch.autograd.grad(mean, list(leaves.values()), allow_unused=True)
        found = cast(tuple[Tensor | None, ...], gradients)
    pairs = zip(leaves.items(), found, strict=True)
    return {n: torch.zeros_like(leaf) if g is None else g.detach() for (n, leaf), g in pairs}


def product(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """Inner product over the common parameters, float64 []; NaN if there are none."""
    shared = [(precise(g), precise(second[n])) for n, g in first.items() if n in second]
    return torch.stack([(a * b).sum() for a, b in shared]).sum() if shared else torch.full((), float("nan"))


def past(readings: Readings) -> list[Probe]:
    """The items of the tasks that have ended."""
    return [probe for task, probe in readings.tasks.items() if task != readings.present]


def present(readings: Readings) -> list[Probe]:
    """The items of the current task, if it has any."""
    return [probe for task, probe in readings.tasks.items() if task == readings.present]


@dataclass(frozen=True, kw_only=True)
class TaskAccuracy(LayerVital):
    """Accuracy on the evaluation items of every task so far, including the current one. A layer is a task.

        A(E_i, f_t) = share of the items of E_i whose largest output is that of their target

    in evaluation mode, with the trained weights (not those that a treatment uses in evaluations). It is measured at
    every boundary, at any cadence, so the accuracy at the end of each task is known. If the budget sets the cadence, it
    is also measured 1, 2, 4, ... 128 steps after a boundary. `homeostat.vitals.continual.continual` summarises the
    series.

    Missing if outputs are not finite or the targets are not class numbers.

    Source: De Lange, van de Ven and Tuytelaars (2022), arXiv:2205.13452, section 3 (there after every step: every=1).

    >>> from homeostat.core.random import Draw
    >>> x, y = torch.eye(3), torch.tensor([0, 1, 1])
    >>> probe = Probe({"w": torch.ones(3)}, x, y, lambda p: x * p["w"], lambda p: (x * p["w"]).sum(), Draw(0))
    >>> TaskAccuracy()(Readings(tasks={"first": probe}))["first"]
    tensor(0.6667, dtype=torch.float64)
    """

    cite = _CITE
    reads = frozenset({Reading.TASKS})
    range = (0.0, 1.0)
    worse = "lower"
    unit = "share of a task's items"
    cost = "moderate"
    reducers: ClassVar[Reducers] = {"right": "sum", "items": "sum"}

    def measure(self, readings: Readings) -> Partials:
        counts = {task: right(probe) for task, probe in readings.tasks.items()}
        return {task: {"right": hits, "items": items} for task, (hits, items) in counts.items()}

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        return fields["right"] / fields["items"]


@dataclass(frozen=True, kw_only=True)
class _GradientPart(NetworkVital, abstract=True):
    """A norm of the gradient of tasks' losses at the weights before the step's update."""

    cite = _CITE
    reads = frozenset({Reading.TASKS, Reading.WEIGHTS})
    range = (0.0, float("inf"))
    worse = "neither"
    unit = "loss per unit of weight"
    cost = "heavy"
    default = False
    reducers: ClassVar[Reducers] = {"square": "sum"}
    part: ClassVar[Callable[[Readings], list[Probe]]]

    def fields(self, readings: Readings) -> Mapping[str, Tensor] | None:
        if not readings.tasks:
            return None
        gradient = task_gradient(type(self).part(readings), readings.weights)
        return {"square": product(gradient, gradient)}

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        return root(fields["square"])


@dataclass(frozen=True, kw_only=True)
class StableGradient(_GradientPart):
    """Norm of the gradient of the mean loss on the items of all ended tasks (the stable part).

        || grad (1/(k-1)) sum_{i<k} L(E_i; theta) ||,   theta before the step's update

    At a switch it is near 0 if the past tasks were learned, so nothing opposes the plastic part. Missing until a task
    has ended. The paper uses the replayed batch; here the evaluation items are used, in evaluation mode, so that no
    replay is needed.

    Source: De Lange, van de Ven and Tuytelaars (2022), arXiv:2205.13452, section 5 (L_stable).

    >>> from homeostat.core.random import Draw
    >>> x, w = torch.eye(2), {"w": torch.tensor([3.0, 4.0])}
    >>> probe = Probe(w, x, x, lambda p: x * p["w"], lambda p: p["w"].square().sum() / 2, Draw(0))
    >>> StableGradient()(Readings(weights=w, tasks={"first": probe}))["network"]
    tensor(5., dtype=torch.float64)
    """

    part = staticmethod(past)


@dataclass(frozen=True, kw_only=True)
class PlasticGradient(_GradientPart):
    """Norm of the gradient of the loss on the evaluation items of the current task (the plastic part).

        || grad L(E_k; theta) ||,   theta before the step's update

    Missing while the current task has no evaluation items.

    Source: De Lange, van de Ven and Tuytelaars (2022), arXiv:2205.13452, section 5 (L_plastic).

    >>> from homeostat.core.random import Draw
    >>> x, w = torch.eye(2), {"w": torch.tensor([3.0, 4.0])}
    >>> probe = Probe(w, x, x, lambda p: x * p["w"], lambda p: p["w"].square().sum() / 2, Draw(0))
    >>> PlasticGradient()(Readings(weights=w, tasks={"first": probe}, present="first"))["network"]
    tensor(5., dtype=torch.float64)
    """

    part = staticmethod(present)


@dataclass(frozen=True, kw_only=True)
class TaskAlignment(LayerVital):
    """Cosine between the step's gradient and the gradient of the loss of each past task. A layer is a task.

        cos(g, grad L(E_i; theta)),   g as the optimizer received it, theta before its update

    Negative: the step raises the loss of that task, which GEM prevents. Missing if one of the gradients is 0.

    Source: Lopez-Paz and Ranzato (2017), arXiv:1706.08840, equation 6, which constrains its sign.

    >>> from homeostat.core.random import Draw
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
    worse = "lower"
    unit = "cosine"
    cost = "heavy"
    default = False
    reducers: ClassVar[Reducers] = {"both": "sum", "ours": "sum", "theirs": "sum"}

    def measure(self, readings: Readings) -> Partials:
        ended = {task: probe for task, probe in readings.tasks.items() if task != readings.present}
        return {task: self._products(probe, readings) for task, probe in ended.items()}

    def _products(self, probe: Probe, readings: Readings) -> dict[str, Tensor]:
        at = {n: readings.weights[n] for n in readings.gradients if n in readings.weights}
        theirs = task_gradient([probe], at)
        ours = {n: readings.gradients[n] for n in theirs}
        return {"both": product(ours, theirs), "ours": product(ours, ours), "theirs": product(theirs, theirs)}

    def value(self, fields: Mapping[str, Tensor]) -> Tensor:
        lengths = fields["ours"].sqrt() * fields["theirs"].sqrt()
        return known((fields["both"] / lengths).clamp(-1, 1), (lengths > 0) & lengths.isfinite())
