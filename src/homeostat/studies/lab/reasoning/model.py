"""A small decoder-only transformer with a cache of keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer so far, each [N, heads, T, width / heads]."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer: about 12 * layers * width^2 parameters."""

    vocabulary: int
    longest: int
    width: int = 96
    layers: int = 3
    heads: int = 4


class DecoderBlock(nn.Module):
    """Attention and a perceptron, each behind a layer norm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        n, t, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        # With a cache only one token comes at a time, and it may look at everything before it.
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)))), (k, v)


class Transformer(nn.Module):
    """Tokens [N, T] to logits of the next token [N, T, V]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.places = nn.Embedding(shape.longest, shape.width)
        self.blocks = nn.ModuleList(DecoderBlock(shape.width, shape.heads) for _ in range(shape.layers))
        self.norm, self.head = nn.LayerNorm(shape.width), nn.Linear(shape.width, shape.vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.step(tokens, None)[0]

    def step(self, tokens: Tensor, past: Cache | None) -> tuple[Tensor, Cache]:
        """Logits of the tokens given, and the cache with them: the first call takes any number, later ones one each."""
        begin = 0 if past is None else past[0][0].shape[2]
        places = torch.arange(begin, begin + tokens.shape[1], device=tokens.device)
        x, present = self.tokens(tokens) + self.places(places), []
        for layer, block in enumerate(self.blocks):
            x, kept = block(x, None if past is None else past[layer])
            present.append(kept)
        return self.head(self.norm(x)), present
