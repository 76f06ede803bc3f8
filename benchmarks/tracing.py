"""Cost of tracing the units of a transformer, once per run: processor seconds and forward passes.

    python benchmarks/tracing.py [--layers 6 --width 384 --vocabulary 256] [--gpt2]

One thread. The passes compute no layer (every layer's output is pinned), so they are cheaper than the network's own.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from homeostat.shell.unit_graph.trace import trace_units


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, width = x.shape
        q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.qkv(self.n1(x)).split(width, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, width)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.n2(x))))


class Transformer(nn.Module):
    """A decoder-only language model with learned positions."""

    def __init__(self, layers: int, width: int, vocabulary: int, context: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, max(1, width // 64)) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--vocabulary", type=int, default=256)
    parser.add_argument("--gpt2", action="store_true", help="the sizes of GPT-2 small: 12 layers, 768, 50257")
    asked = parser.parse_args()
    layers, width, vocabulary = (12, 768, 50257) if asked.gpt2 else (asked.layers, asked.width, asked.vocabulary)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Transformer(layers, width, vocabulary, context=128)
    tokens = torch.randint(vocabulary, (4, 64))
    began = time.process_time()
    trace = trace_units(model, (tokens,), budget=600.0)
    seconds = time.process_time() - began
    count = sum(p.numel() for p in model.parameters())
    print(
        f"{layers} layers of width {width} ({count / 1e6:.0f} M parameters): {seconds:.1f} s, {trace.passes} passes, "
        f"{len(trace.groups)} layers paired, {len(trace.refused)} refused"
    )


if __name__ == "__main__":
    main()
