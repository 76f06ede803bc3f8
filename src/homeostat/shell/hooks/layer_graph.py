"""What the autograd graph of a loss keeps of single layers: attention weights, and the statistics of batch norms."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from homeostat.shell.hooks.torch_internals import node_shapes, saved

ITEMS = 16
"""Items of a batch (times heads) whose attention is looked at."""
LONGEST = 256
"""Queries and keys that are looked at."""
FEWEST_KEYS = 4
"""Keys a query must be able to see for its entropy to say something."""
UNDERFLOW = 104.0
"""Difference of two logits (nats) from which on the smaller weight is exactly 0 in float32."""
_PASSING = (
    "ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "CloneBackward0", "ToCopyBackward0",
    "ExpandBackward0", "MulBackward0", "NativeDropoutBackward0",
)  # fmt: skip
_SOFTMAX = ("SoftmaxBackward0", "SafeSoftmaxBackward0")
_NORMS = ("NativeBatchNormBackward0", "CudnnBatchNormBackward0", "MiopenBatchNormBackward0")


@dataclass(frozen=True)
class AttentionReading:
    """The attention of all layers that a loss depends on.

    Args:
        layers: how many.
        entropy: of the weights of a query over ln(keys it may see), mean of a layer, the lowest layer: 0..1.
        spread: difference between the largest and the smallest logit of a query (nats), mean of a layer, the largest
            layer; at most `UNDERFLOW` where only the weights are kept.
    """

    layers: int
    entropy: float
    spread: float


@dataclass(frozen=True)
class NormReading:
    """Batch norms that a loss depends on, the worst of them.

    Args:
        training: batch statistics were used.
        values: numbers from which a channel's statistics come, the fewest of all layers.
        shift: |running mean - batch mean| / batch deviation, median of the channels.
        ratio: running variance over batch variance, or its inverse where that is larger, median of the channels.
        unset: running statistics are those of a new layer: means of 0 and variances of 1.
    """

    training: bool
    values: int
    shift: float
    ratio: float
    unset: bool = False


def read_attention(nodes: Iterable[Any]) -> AttentionReading | None:
    """The attention weights in a graph; None without any that says something."""
    found = [seen for node in nodes if (seen := _attention(node)) is not None]
    if not found:
        return None
    return AttentionReading(len(found), min(e for e, _ in found), max(s for _, s in found))


def _attention(node: Any) -> tuple[float, float] | None:
    name = node.name()
    if name.startswith("ScaledDotProduct"):
        return _of_product(node)
    if name not in ("BmmBackward0", "MmBackward0"):
        return None
    inner = node.next_functions[0][0] if node.next_functions else None
    while inner is not None and inner.name() in _PASSING:
        inner = inner.next_functions[0][0]
    if inner is None or inner.name() not in _SOFTMAX:
        return None
    weights, shapes = saved(inner, "result"), node_shapes(inner)
    dim = saved(inner, "dim")
    if not isinstance(weights, Tensor) or weights.ndim < 3 or not shapes or not isinstance(dim, int):
        return None
    if dim % weights.ndim != weights.ndim - 1:
        return None
    return _measure(weights.detach().reshape(-1, *weights.shape[-2:])[:ITEMS, -LONGEST:].float())


def _of_product(node: Any) -> tuple[float, float] | None:
    query, key, scale = saved(node, "query"), saved(node, "key"), saved(node, "scale")
    if not isinstance(query, Tensor) or not isinstance(key, Tensor) or query.ndim != 4 or key.ndim != 4:
        return None
    if query.shape[1] % key.shape[1] or query.shape[-1] != key.shape[-1]:
        return None
    length, keys = query.shape[-2], key.shape[-2]
    items = max(ITEMS // query.shape[1], 1)
    query, key = query.detach()[:items].float(), key.detach()[:items].float()
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    logits = query[..., -LONGEST:, :] @ key.transpose(-1, -2) * (scale if scale else query.shape[-1] ** -0.5)
    mask = saved(node, "attn_mask")
    mask = saved(node, "attn_bias") if mask is None else mask
    if isinstance(mask, Tensor):
        mask = mask.detach()
        if not mask.is_floating_point():
            mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, -math.inf)
        mask = mask[:items] if mask.ndim == 4 and len(mask) > 1 else mask
        logits = logits + mask.expand(*mask.shape[:-2], length, keys)[..., -LONGEST:, :]
    if saved(node, "is_causal"):
        hidden = torch.ones(length, keys, dtype=torch.bool, device=logits.device).triu(1)[-LONGEST:]
        logits = logits.masked_fill(hidden, -math.inf)
    return _measure(logits.softmax(-1).flatten(0, 1), logits.flatten(0, 1))


def _measure(weights: Tensor, logits: Tensor | None = None) -> tuple[float, float] | None:
    """(relative entropy, spread of the logits) of weights [N, queries, keys].

    A key that is hidden by a mask has a weight of exactly 0. A weight may also be 0 because the attention has collapsed
    on other keys. So a key counts as hidden from a query where no item gives it a weight but other queries do (causal
    masks, windows), and from an item where none of its queries does but other items do (padding).
    """
    if not bool(torch.isfinite(weights).all()):
        return None
    some = weights > 0
    used = some.any(0).any(0)
    seen = some.any(0) | ~used
    seen = seen & (some.any(1) | ~used).unsqueeze(1)
    count = seen.sum(-1)
    rows = count >= FEWEST_KEYS
    if not bool(rows.any()):
        return None
    entropy = torch.special.entr(weights).sum(-1) / count.clamp_min(2).log()
    if logits is None:
        logits = weights.log().clamp_min(-UNDERFLOW)
    high = logits.masked_fill(~seen, -math.inf).amax(-1)
    low = logits.masked_fill(~seen | ~torch.isfinite(logits), math.inf).amin(-1)
    return float(entropy[rows].mean()), float((high - low)[rows].mean())


def read_norms(nodes: Iterable[Any]) -> NormReading | None:
    """The batch norms with running statistics in a graph; None without any."""
    found = [seen for node in nodes if node.name() in _NORMS and (seen := _norm(node)) is not None]
    if not found:
        return None
    worst = max(found, key=lambda seen: max(seen.shift, math.log(seen.ratio)))
    training, unset = all(seen.training for seen in found), any(seen.unset for seen in found)
    return NormReading(training, min(seen.values for seen in found), worst.shift, worst.ratio, unset)


def _norm(node: Any) -> NormReading | None:
    inputs, mean, var = saved(node, "input"), saved(node, "running_mean"), saved(node, "running_var")
    if not isinstance(inputs, Tensor) or not isinstance(mean, Tensor) or not isinstance(var, Tensor):
        return None
    rows = inputs.detach().float().transpose(0, 1).flatten(1)
    if rows.shape[1] < 2:
        return None
    spread, center = torch.var_mean(rows, 1)
    alive = spread > 1e-8
    if not bool(alive.any()) or not bool(torch.isfinite(spread).all()):
        return None
    unset = not bool(mean.any()) and bool((var == 1).all())
    spread, center, mean, var = spread[alive], center[alive], mean.detach().float()[alive], var.detach().float()[alive]
    shift = ((mean - center).abs() / spread.sqrt()).median()
    ratio = (var.clamp_min(1e-12) / spread).log().abs().median().clamp_max(60.0).exp()
    return NormReading(bool(saved(node, "training")), rows.shape[1], float(shift), float(ratio), unset)
