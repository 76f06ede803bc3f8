"""Scores of a network on a batch: how the outputs that its loss compares follow from what the network returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from homeostat.shell.hooks.loss_graph import Criterion
from homeostat.shell.hooks.torch_internals import is_plain
from homeostat.shell.unit_graph.module_roles import tensors_in

ALIKE = 0.99
"""Share of a batch's predictions that must agree for an output to be the one that a loss compared."""

_VIEWS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "whole": lambda out: out,
    "flat": lambda out: out.reshape(-1, out.shape[-1]) if out.ndim > 2 else None,
    "classes first": lambda out: out.movedim(-1, 1) if out.ndim > 2 else None,
    "last": lambda out: out[:, -1] if out.ndim == 3 else None,
    "last, time first": lambda out: out[-1] if out.ndim == 3 else None,
    "next": lambda out: out[:, :-1].reshape(-1, out.shape[-1]) if out.ndim == 3 else None,
    "one number": lambda out: out.squeeze(-1) if out.ndim and out.shape[-1] == 1 else None,
}
"""Operations of training loops on an output before the loss."""


@dataclass(frozen=True)
class Knowledge:
    """Predictions on a batch: number of correct ones (for numbers, the sum of squared errors), and their number."""

    kind: str
    right: float
    count: int
    items: int


@dataclass(frozen=True)
class Cut:
    """How a batch is divided into items: their axis in the first input. Every item has the same number of targets."""

    size: int
    along: int
    flat: bool

    def index(self, most: int) -> Tensor:
        """Indices of items, up to a number, evenly spaced because batches may be sorted."""
        return torch.linspace(0, self.size - 1, min(most, self.size)).round().long()

    def targets(self, targets: Tensor, index: Tensor) -> Tensor:
        """The targets of these items."""
        index = index.to(targets.device)
        if self.flat:
            return targets.reshape(self.size, -1).index_select(0, index).reshape(-1)
        return targets.index_select(0, index)


@dataclass(frozen=True)
class Rule:
    """How the compared outputs follow from what the network returned: which tensor, with which view."""

    tensor: int
    view: str
    sigmoid: bool = False
    flatten: bool = False

    def scores(self, output: Any) -> Tensor:
        """The outputs that the loss would compare."""
        seen = _VIEWS[self.view](tensors_in(output)[self.tensor])
        assert seen is not None
        seen = seen.flatten(2) if self.flatten else seen
        return seen.sigmoid() if self.sigmoid else seen

    def cut(self, inputs: Tensor, compared: Criterion) -> Cut | None:
        """How a batch with these inputs is divided into items; None if unknown."""
        count = len(compared.targets) if compared.targets.ndim else 0
        if not count or not inputs.ndim:
            return None
        if self.view in ("flat", "next"):
            return Cut(len(inputs), 0, True) if len(inputs) and count % len(inputs) == 0 else None
        along = next((axis for axis in (0, 1) if inputs.ndim > axis and inputs.shape[axis] == count), None)
        return None if along is None else Cut(count, along, False)


class _HasTargets(Protocol):
    @property
    def criterion(self) -> Criterion: ...


def find_rule(output: Any, compared: Criterion) -> Rule | None:
    """The rule from this output to the compared outputs; None if there is none."""
    for number, tensor in enumerate(tensors_in(output)):
        if not is_plain(tensor) or not tensor.is_floating_point():
            continue
        for view, see in _VIEWS.items():
            seen = see(tensor.detach())
            if seen is None:
                continue
            flatten = compared.kind == "classes" and seen.ndim > 2
            seen = seen.flatten(2) if flatten else seen
            if seen.shape != compared.scores.shape:
                continue
            for sigmoid in (False, True) if compared.kind == "binary" else (False,):
                if _same(seen.sigmoid() if sigmoid else seen, compared):
                    return Rule(number, view, sigmoid, flatten)
    return None


def _same(seen: Tensor, compared: Criterion) -> bool:
    if compared.kind == "classes":
        if compared.scores.ndim < 2:
            return False
        return float((seen.argmax(1) == compared.scores.argmax(1)).float().mean()) >= ALIKE
    return torch.allclose(seen.float(), compared.scores.float(), rtol=1e-2, atol=1e-4)


def answers(scores: Tensor, compared: Criterion) -> Knowledge:
    """Number of targets that these scores predict correctly."""
    targets, items = compared.targets, len(compared.targets)
    if compared.kind == "classes":
        counted = targets != compared.ignored
        right = ((scores.argmax(1) == targets) & counted).sum()
        return Knowledge(compared.kind, float(right), int(counted.sum()), items)
    if compared.kind == "binary":
        right = ((scores > compared.middle) == (targets > 0.5)).sum()
        return Knowledge(compared.kind, float(right), targets.numel(), items)
    errors = (scores.detach().double() - targets.double()).square().sum()
    return Knowledge(compared.kind, float(errors), targets.numel(), items)


def spread_of(batches: Sequence[_HasTargets]) -> tuple[float, float]:
    """(accuracy of guessing, variance of the targets) over these batches."""
    found = [batch.criterion for batch in batches]
    last = found[-1]
    alike = [one for one in found if one.kind == last.kind and one.targets.shape[1:] == last.targets.shape[1:]]
    targets = torch.cat([one.targets for one in alike])
    if last.kind == "classes":
        _, counts = torch.unique(targets[targets != last.ignored], return_counts=True)
        share = float(counts.max() / counts.sum()) if len(counts) else 1.0
        return (share if len(counts) > 1 else 0.0), math.nan
    if last.kind == "binary":
        mean = float(targets.double().mean())
        return max(mean, 1 - mean), math.nan
    rows = targets.double().reshape(len(targets), -1)
    return math.nan, float((rows - rows.mean(0)).square().mean())


def knowledge(found: Sequence[Knowledge], guess: float, variance: float) -> float:
    """Score relative to guessing: 0 for guessing, 1 for perfect, at least 0; NaN if it is undefined."""
    right, count = sum(one.right for one in found), sum(one.count for one in found)
    if not count:
        return math.nan
    if found[0].kind == "numbers":
        return max(1 - right / count / variance, 0.0) if variance > 0 else math.nan
    return max((right / count - guess) / (1 - guess), 0.0) if guess < 1 else math.nan
