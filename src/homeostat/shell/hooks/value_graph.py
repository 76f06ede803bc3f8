"""What the autograd graph of a loss says about regressions: predictions, their targets, and what predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from homeostat.shell.hooks.graph_values import below, operand, value_of
from homeostat.shell.hooks.policy_graph import deviation
from homeostat.shell.hooks.torch_internals import saved

_LOSSES = ("MseLossBackward0", "SmoothL1LossBackward0", "HuberLossBackward0")
_CHOICES = ("GatherBackward0", "IndexBackward0", "SelectBackward0")
_NORMAL = 6
"""Operations from a log-density of a normal distribution to the square in it."""


@dataclass(frozen=True)
class Regression:
    """One comparison of outputs with numbers that need no gradient.

    Args:
        leaf: the parameter that is nearest to the outputs that are compared, None when there is none near.
        chosen: the outputs are a choice from those of each item, as values of actions are.
        indexed: the choice is another one for each item.
        prediction, target: of one shape; None where the graph does not keep what is needed.
    """

    leaf: Any
    chosen: bool
    indexed: bool
    prediction: Tensor | None
    target: Tensor | None


def regressions(nodes: Sequence[Any]) -> list[Regression]:
    """The squared (or absolute, or Huber) differences in a graph, nearest to the loss first."""
    densities = {one for node in nodes if deviation(node) is not None for one in below(node, _NORMAL)}
    return [found for node in nodes if node not in densities and (found := _regression(node)) is not None]


def _regression(node: Any) -> Regression | None:
    name = node.name()
    if name in _LOSSES:
        return _of_loss(node)
    if name == "AbsBackward0" or (name == "PowBackward0" and saved(node, "exponent") == 2):
        return _of_difference(node)
    return None


def _of_loss(node: Any) -> Regression | None:
    first, second = operand(node), operand(node, 1)
    if (first is None) == (second is None):
        return None
    sides = saved(node, "self"), saved(node, "target")
    prediction, target = sides if first is not None else sides[::-1]
    if not isinstance(prediction, Tensor) or not isinstance(target, Tensor):
        return None
    return _made(first or second, prediction.detach(), target.detach())


def _of_difference(node: Any) -> Regression | None:
    inner, difference = operand(node), saved(node, "self")
    if inner is None or inner.name() != "SubBackward0" or not isinstance(difference, Tensor):
        return None
    first, second = operand(inner), operand(inner, 1)
    if (first is None) == (second is None):
        return None
    prediction, target = value_of(first or second), None
    if prediction is not None and prediction.shape == difference.shape:
        target = prediction - difference.detach() if first is not None else prediction + difference.detach()
    return _made(first or second, prediction, target)


def _made(node: Any, prediction: Tensor | None, target: Tensor | None) -> Regression:
    chosen = any(one.name() in _CHOICES for one in below(node, 4))
    indexed = any(_indexed(one) for one in below(node, 4))
    return Regression(first_parameter(node), chosen, indexed, prediction, target)


def _indexed(node: Any) -> bool:
    """Whether a value of each item is chosen by its own index."""
    if node.name() == "GatherBackward0":
        return True
    indices = saved(node, "indices") if node.name() == "IndexBackward0" else None
    return isinstance(indices, tuple) and sum(isinstance(one, Tensor) for one in indices) > 1


def first_parameter(node: Any, depth: int = 12) -> Any:
    """The parameter that is nearest to a node; None when there is none within `depth` operations."""
    return next((v for one in below(node, depth) if (v := getattr(one, "variable", None)) is not None), None)
