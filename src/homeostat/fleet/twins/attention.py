"""Multi-head attention of R replicas."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from homeostat.fleet.twins.elementwise import dropped
from homeostat.fleet.twins.linear import batched_linear
from homeostat.fleet.twins.twin import Lifting, Modules, lift, twin_of


class AttentionTwin(nn.Module):
    """`nn.MultiheadAttention` on [R, B, T, E] (`batch_first`) or [R, T, B, E].

    Attributes:
        batch_first, num_heads, embed_dim: as in torch.
    """

    in_proj_weight: Tensor

    def __init__(self, modules: Modules, lifting: Lifting, path: str) -> None:
        super().__init__()
        lifting.adopt(self, modules, path)
        first: Any = modules[0]
        many: list[Any] = list(modules)
        self.batch_first, self.num_heads, self.embed_dim = first.batch_first, first.num_heads, first.embed_dim
        self.dropout, self._streams = first.dropout, lifting.streams
        self.out_proj = lift([m.out_proj for m in many], lifting, f"{path}.out_proj")

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        q, k, v = self._projected(query, key, value)
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        drops = self.dropout if self.training else 0.0
        weights = None
        if need_weights or drops:
            scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
            weights = torch.softmax(scores if mask is None else scores + mask, -1)
            if drops:
                weights = dropped(weights, drops, self._streams)
            y = weights @ v
        else:
            flat = [t.flatten(0, 1) for t in (q, k, v)]
            mask = None if mask is None else mask.expand(*q.shape[:3], *mask.shape[-2:]).flatten(0, 1)
            y = nn.functional.scaled_dot_product_attention(*flat, attn_mask=mask).unflatten(0, q.shape[:2])
        out = self.out_proj(y.permute(0, 3, 1, 2, 4).flatten(3))  # [R, T, B, E] in memory, as torch leaves it
        out = out.transpose(1, 2) if self.batch_first else out
        if weights is None or not need_weights:
            return out, None
        return out, weights.mean(2) if average_attn_weights else weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values [R, B, heads, T, E/heads]."""
        if query.ndim != 4:
            raise ValueError(f"expected [R, B, T, E], got {list(query.shape)}")
        bias = getattr(self, "in_proj_bias", None)
        if query is key and key is value:
            parts = list(batched_linear(query, self.in_proj_weight, bias).chunk(3, -1))
        else:
            weights = self.in_proj_weight.chunk(3, 1)
            biases = (None, None, None) if bias is None else bias.chunk(3, 1)
            parts = [batched_linear(*each) for each in zip((query, key, value), weights, biases, strict=True)]
        if not self.batch_first:
            parts = [part.transpose(1, 2) for part in parts]
        return [part.unflatten(-1, (self.num_heads, -1)).transpose(2, 3) for part in parts]

    def _mask(self, q: Tensor, k: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """What is added to the scores, broadcastable to [R, B, heads, T, S]."""
        total = None
        if mask is not None:
            total = _additive(mask, q)
            if mask.ndim == 3:  # [B * heads, T, S]
                total = total.unflatten(0, (1, q.shape[1], q.shape[2]))
            elif mask.ndim == 4:  # [R, B * heads, T, S]
                total = total.unflatten(1, (q.shape[1], q.shape[2]))
            else:
                total = total.expand(1, 1, 1, *total.shape)
        if padding is not None:  # [B, S] or [R, B, S]
            shown = _additive(padding, q)
            shown = shown.reshape(-1, shown.shape[-2], 1, 1, shown.shape[-1])
            total = shown if total is None else total + shown
        return total


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill_(mask, -math.inf)


@twin_of(nn.MultiheadAttention)
def _attention(modules: Modules, lifting: Lifting, path: str) -> nn.Module | None:
    first: Any = modules[0]
    plain = first.bias_k is None and first.bias_v is None and not first.add_zero_attn
    same = getattr(first, "in_proj_weight", None) is not None
    return AttentionTwin(modules, lifting, path) if plain and same else None
