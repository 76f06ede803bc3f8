"""What the autograd graph of a loss says about tokens: whether a network is given the answers that it is to find."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from homeostat.shell.hooks.torch_internals import saved

FEWEST = 16
"""Smallest number of tokens that are compared."""
ALIKE = 0.98
"""Share of tokens that must agree."""
OPEN = 0.5
"""Share of later positions that attention sees, from which on it is not causal."""
_CROSS_ENTROPY = ("NllLossBackward0", "NllLoss2DBackward0", "NllLossNdBackward0")
_PASSING = (
    "ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "CloneBackward0", "ToCopyBackward0",
    "ExpandBackward0", "MulBackward0", "NativeDropoutBackward0",
)  # fmt: skip
_SOFTMAX = ("SoftmaxBackward0", "SafeSoftmaxBackward0")


def read_leak(nodes: Sequence[Any]) -> str:
    """How the targets of a cross entropy are among the inputs that the network sees at their position, or "".

    The targets are tokens, and the inputs go through an embedding. Either both are the same, or the targets are the
    next tokens and attention sees later positions. Networks with several sequences of tokens, such as an encoder and a
    decoder, are not judged.
    """
    found = _targets(nodes)
    if found is None:
        return ""
    targets, ignored = found
    sequences = list[Tensor]()
    for node in nodes:
        indices = saved(node, "indices") if node.name() == "EmbeddingBackward0" else None
        if isinstance(indices, Tensor) and indices.numel() == targets.numel() and indices.ndim == 2:
            tokens = indices.detach()
            if not any(torch.equal(tokens, other) for other in sequences):
                sequences.append(tokens)
    sequences = [tokens for tokens in sequences if len(tokens) < 2 or not bool((tokens == tokens[:1]).all())]
    if len(sequences) != 1:  # positions are the same in every row
        return ""
    tokens = sequences[0]
    targets = targets.reshape(tokens.shape)
    if _agree(tokens, targets, ignored):
        return "the targets are the tokens that the network is given at the same positions"
    if tokens.shape[1] > 3 and _agree(tokens[:, 1:], targets[:, :-1], ignored) and _sees_later(nodes, tokens.shape[1]):
        return "the targets are the next tokens, and attention sees later positions, where they stand"
    return ""


def unnormalised(nodes: Iterable[Any]) -> bool:
    """Whether a negative log-likelihood is given something else than logarithms of probabilities: they sum to more
    than one."""
    for node in nodes:
        if node.name() in _CROSS_ENTROPY and isinstance(scores := saved(node, "self"), Tensor) and scores.ndim > 1:
            return float(scores.detach().float().logsumexp(1).mean()) > 0.1
    return False


def _targets(nodes: Iterable[Any]) -> tuple[Tensor, int] | None:
    for node in nodes:
        if node.name() in _CROSS_ENTROPY and isinstance(target := saved(node, "target"), Tensor):
            ignored = saved(node, "ignore_index")
            return target.detach().reshape(-1), ignored if isinstance(ignored, int) else -100
    return None


def _agree(tokens: Tensor, targets: Tensor, ignored: int) -> bool:
    """Whether nearly all targets that count are these tokens, and these are not all alike."""
    counted = targets != ignored
    tokens, targets = tokens[counted], targets[counted]
    if len(targets) < FEWEST or float((tokens == targets).float().mean()) < ALIKE:
        return False
    return float((targets == targets.mode().values).float().mean()) < 0.5


def _sees_later(nodes: Iterable[Any], length: int) -> bool:
    """Whether some self-attention over so many positions is not causal."""
    return any(share >= OPEN for node in nodes if (share := _later(node, length)) is not None)


def _later(node: Any, length: int) -> float | None:
    """Share of the later positions that attention sees, None where this is no self-attention of that length."""
    if node.name().startswith("ScaledDotProduct"):
        query, key = saved(node, "query"), saved(node, "key")
        if not isinstance(query, Tensor) or not isinstance(key, Tensor):
            return None
        if query.shape[-2] != length or key.shape[-2] != length:
            return None
        if saved(node, "is_causal"):
            return 0.0
        mask = saved(node, "attn_mask")
        mask = saved(node, "attn_bias") if mask is None else mask
        if not isinstance(mask, Tensor):
            return 1.0
        mask = mask.detach()
        seen = mask > -1e4 if mask.is_floating_point() else mask
        return _above(seen.expand(*mask.shape[:-2], length, length))
    inner = node.next_functions[0][0] if node.name() in ("BmmBackward0", "MmBackward0") else None
    while inner is not None and inner.name() in _PASSING:
        inner = inner.next_functions[0][0]
    weights = saved(inner, "result") if inner is not None and inner.name() in _SOFTMAX else None
    if not isinstance(weights, Tensor) or weights.shape[-2:] != (length, length):
        return None
    return _above(weights.detach() > 0)


def _above(seen: Tensor) -> float:
    """Share of the positions above the diagonal that are seen [..., T, T]."""
    length = seen.shape[-1]
    above = torch.ones(length, length, dtype=torch.bool, device=seen.device).triu(1)
    return float(seen.reshape(-1, length, length)[:16][:, above].float().mean())
