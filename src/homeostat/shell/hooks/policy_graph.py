"""What the autograd graph of a loss says about a policy: its entropy, and how far it is from the one that acted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from homeostat.shell.hooks.graph_values import SAME, below, constant_factor, operand, through
from homeostat.shell.hooks.torch_internals import saved

REACH = 10
"""Operations between a ratio (or an advantage) and the log-probability that it belongs to."""
EPISODE = 4
"""Log-probabilities, computed one by one, that make an episode."""
MOST_PARTS = 32
"""Distributions, computed one by one, that are looked at."""
ROWS = 256
"""Distributions of which the entropy is computed, at even distances."""
_CROSS_ENTROPY = ("NllLossBackward0", "NllLoss2DBackward0")
_CLAMPS = ("ClampBackward0", "ClampBackward1", "ClampMinBackward0", "ClampMaxBackward0")
_FROM_SCORES = (*SAME, *_CLAMPS, "DivBackward0")


@dataclass(frozen=True)
class PolicyReading:
    """The policy in one loss. NaN where there is no such number.

    Args:
        entropy: mean entropy of the discrete distributions over the logarithm of their number of outcomes, in 0..1.
        scale: geometric mean of the standard deviations of the normal distributions.
        kl: mean of (r - 1) - ln r over the ratios r of new to old probabilities.
        log_probabilities: the nodes that compute log-probabilities.
    """

    entropy: float
    scale: float
    kl: float
    log_probabilities: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _Distribution:
    """Log-probabilities [N, C] of outcomes; sampled: written as torch.distributions does."""

    log_probabilities: Tensor
    sampled: bool = False


def read_policy(nodes: Sequence[Any]) -> PolicyReading | None:
    """Read the policy in the graph of a loss; None where there is no policy gradient in it.

    A policy gradient has ratios exp(new - old) of probabilities in it, or weighs log-probabilities by advantages:
    numbers of both signs that need no gradient, or numbers that differ, if the probabilities are a `Categorical`'s.
    Log-probabilities are those of `Categorical`, `Bernoulli`, `Normal` and `MultivariateNormal`, and a choice from the
    output of a log-softmax.

    Args:
        nodes: of the graph, nearest to the loss first.
    """
    discrete = {node: found for node in nodes if (found := _distribution(node)) is not None}
    normal = {node: scale for node in nodes if (scale := deviation(node)) is not None}
    if not discrete and not normal:
        return None
    found = {*discrete, *normal}
    ratios = [ratio for node in nodes if (ratio := _ratio(node, found)) is not None]
    if not ratios and not _weighed(nodes, discrete, found):
        return None
    return PolicyReading(_entropy(discrete.values()), _scale(normal.values()), _divergence(ratios), tuple(found))


def deviation(node: Any) -> Tensor | None:
    """The standard deviation of a normal distribution whose log-density is computed at this node."""
    exponent, log = (operand(node), operand(node, 1)) if node.name() == "SubBackward0" else (None, None)
    if exponent is None or log is None:
        return None
    if log.name() == "LogBackward0" and exponent.name() == "DivBackward0":
        square = through(operand(exponent), ("NegBackward0",))
        if square is None or square.name() != "PowBackward0":
            return None
    else:  # several dimensions: half of the logarithm of a determinant
        log = through(log, (*SAME, "SumBackward1"))
        if log is None or log.name() != "LogBackward0" or (inner := operand(log)) is None:
            return None
        if inner.name() != "DiagonalBackward0":
            return None
    scale = saved(log, "self")
    return scale.detach().reshape(-1).float() if isinstance(scale, Tensor) and scale.numel() else None


def _distribution(node: Any) -> _Distribution | None:
    """The distribution from which a choice is made at this node."""
    name = node.name()
    if name == "BinaryCrossEntropyWithLogitsBackward0":
        scores = saved(node, "self")
        return None if not isinstance(scores, Tensor) or scores.numel() < 1 else _of(_against_zero(scores))
    if name == "SubBackward0":  # chosen first, normalised afterwards
        return _of(_normalised(operand(node, 1))) if _chosen(operand(node)) else None
    if name not in ("GatherBackward0", "IndexBackward0", *_CROSS_ENTROPY) or (inner := through(operand(node))) is None:
        return None
    if inner.name() == "LogSoftmaxBackward0":
        return _of(saved(inner, "result"))
    if inner.name() == "SubBackward0":
        return _of(_normalised(operand(inner, 1)), sampled=True)
    probabilities = saved(inner, "self") if inner.name() == "LogBackward0" else None
    base = through(operand(inner), _FROM_SCORES)
    if not isinstance(probabilities, Tensor) or base is None or base.name() != "SoftmaxBackward0":
        return None
    return _of(probabilities.detach().clamp_min(1e-30).log(), sampled=operand(inner).name() == "ClampBackward1")


def _of(values: Any, sampled: bool = False) -> _Distribution | None:
    """Of scores [..., C], at most `ROWS` of them."""
    if not isinstance(values, Tensor) or not values.ndim or values.shape[-1] < 2 or not values.numel():
        return None
    flat = values.detach().reshape(-1, values.shape[-1])
    few = flat[:: max(1, len(flat) // ROWS)][:ROWS].float()
    return _Distribution(few.log_softmax(-1), sampled)


def _chosen(node: Any) -> bool:
    node = through(node)
    return node is not None and node.name() == "GatherBackward0"


def _normalised(node: Any) -> Tensor | None:
    """The scores whose log-sum-exp this is; rows that were computed one by one are put together."""
    node = through(node)
    if node is None or node.name() not in ("LogsumexpBackward0", "StackBackward0"):
        return None
    parts = [node] if node.name() == "LogsumexpBackward0" else [child for child, _ in node.next_functions]
    few = parts[:: max(1, len(parts) // MOST_PARTS)][:MOST_PARTS]
    scores = [saved(one, "self") for one in few if one is not None and one.name() == "LogsumexpBackward0"]
    rows = [one.detach().reshape(-1, one.shape[-1])[:ROWS] for one in scores if isinstance(one, Tensor) and one.ndim]
    return torch.cat(rows) if rows and all(one.shape[-1] == rows[0].shape[-1] for one in rows) else None


def _against_zero(scores: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(scores), scores], -1)


def _ratio(node: Any, found: set[Any]) -> Tensor | None:
    """New over old probability: exp(new - old), where old needs no gradient, times an advantage."""
    if node.name() != "MulBackward0" or constant_factor(node) is None:
        return None
    exponential = through(operand(node) or operand(node, 1), (*SAME, *_CLAMPS))
    if exponential is None or exponential.name() != "ExpBackward0":
        return None
    difference = through(operand(exponential), (*SAME, *_CLAMPS))
    if difference is None or difference.name() != "SubBackward0" or operand(difference, 1) is not None:
        return None
    if not any(one in found for one in below(difference, REACH)):
        return None
    return saved(exponential, "result")


def _weighed(nodes: Iterable[Any], discrete: Mapping[Any, _Distribution], found: set[Any]) -> bool:
    """Whether factors of the log-probabilities are advantages.

    Single numbers count only where there are several log-probabilities, as of the steps of an episode: one is a weight
    of the loss.
    """
    lowest, highest, several, sampled = 0.0, 0.0, set[float](), False
    for node in nodes:
        factor = constant_factor(node) if node.name() == "MulBackward0" else None
        if factor is None or (factor.numel() < 2 and len(found) < EPISODE):
            continue
        if not (reached := [one for one in below(node, REACH) if one in found]):
            continue
        low, high = (float(one) for one in factor.aminmax())
        lowest, highest = min(lowest, low), max(highest, high)
        if sampled := sampled or any(one in discrete and discrete[one].sampled for one in reached):
            several |= {low, high}
    return lowest < 0 < highest or len(several - {0.0}) > 1


def _entropy(distributions: Iterable[_Distribution]) -> float:
    """Over the logarithm of the number of outcomes; a mean over all."""
    shares = [
        torch.special.entr(one.log_probabilities.exp()).sum(-1).mean() / math.log(one.log_probabilities.shape[-1])
        for one in distributions
    ]
    return float(torch.stack(shares).mean()) if shares else math.nan


def _scale(scales: Iterable[Tensor]) -> float:
    logs = [scale.log().mean() for scale in scales]
    return float(torch.stack(logs).mean().exp()) if logs else math.nan


def _divergence(ratios: Sequence[Tensor]) -> float:
    """By the estimator of a Kullback-Leibler divergence that is never negative (Schulman 2020)."""
    if not ratios:
        return math.nan
    every = torch.cat([ratio.detach().reshape(-1).float() for ratio in ratios])
    every = every[every > 0]
    return float((every - 1 - every.log()).mean()) if every.numel() else math.nan
