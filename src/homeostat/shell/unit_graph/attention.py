"""nn.MultiheadAttention as separate matrix products, so that the tracer can follow each of them."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homeostat.shell.hooks.torch_internals import shares_projection


def attend(
    layer: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The result of `layer` without dropout: the output and, if requested, the attention weights.

    `is_causal` is a hint about `attn_mask` and changes nothing.
    """
    swap, single = not layer.batch_first and query.dim() == 3, query.dim() == 2
    q, k, v = (_batched(x, swap, single) for x in _projected(layer, query, key, value))
    masks = _masks(layer, k, key_padding_mask, attn_mask)
    k, v = _lengthened(layer, k, v)
    heads = layer.num_heads
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    for mask in masks:
        scores = scores + mask
    weights = scores.softmax(-1)
    mixed = (weights @ v).transpose(1, 2).flatten(2)
    out = F.linear(_batched(mixed, swap, False), layer.out_proj.weight, layer.out_proj.bias)
    shown = weights.mean(1) if average_attn_weights else weights
    return out.squeeze(0) if single else out, (shown.squeeze(0) if single else shown) if need_weights else None


def _batched(x: Tensor, swap: bool, single: bool) -> Tensor:
    return x.unsqueeze(0) if single else x.transpose(0, 1) if swap else x


def _projected(layer: Any, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    width, bias = layer.embed_dim, layer.in_proj_bias
    places = [slice(i * width, (i + 1) * width) for i in range(3)]
    if shares_projection(layer):
        weights = [layer.in_proj_weight[place] for place in places]
    else:
        weights = [layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight]
    biases = [None if bias is None else bias[place] for place in places]
    return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]


def _lengthened(layer: Any, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values [N, S, E] with the learned and the zero position that some layers add."""
    if layer.bias_k is not None:
        k = torch.cat([k, layer.bias_k.expand(len(k), 1, -1)], 1)
        v = torch.cat([v, layer.bias_v.expand(len(v), 1, -1)], 1)
    if layer.add_zero_attn:
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
    return k, v


def _masks(layer: Any, k: Tensor, padding: Tensor | None, mask: Tensor | None) -> list[Tensor]:
    """Both masks as numbers that are added to scores [N, heads, L, S]."""
    found = []
    if padding is not None:
        found.append(_added(padding)[:, None, None, :])
    if mask is not None:
        added = _added(mask)
        found.append(added if added.ndim == 2 else added.unflatten(0, (len(k), layer.num_heads)))
    more = (layer.bias_k is not None) + bool(layer.add_zero_attn)
    return [F.pad(mask, (0, more)) for mask in found]


def _added(mask: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, device=mask.device).masked_fill(mask, float("-inf"))
