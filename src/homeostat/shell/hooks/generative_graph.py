"""What the graph of a loss shows of generative models: the code of an autoencoder, and real and made batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from homeostat.shell.hooks.graph_values import constant_factor
from homeostat.shell.hooks.torch_internals import saved

FEWEST = 8
"""Smallest batch that is looked at."""
_FIRST = {"AddmmBackward0": ("mat1", 1, 2), "MmBackward0": ("self", 0, 1), "ConvolutionBackward0": ("input", 0, 1)}
"""Layer -> (what it saves of its input, the operand of that, the operand of its weight)."""


def code_divergence(nodes: Sequence[Any]) -> float | None:
    """KL(N(mean, var) || N(0, 1)) of the code of a variational autoencoder, nats per item; None without one.

    The code is recognised by noise [N, D] of the standard normal distribution that is multiplied with a tensor; its
    mean and variance by squares and exponentials of that shape, as the divergence is usually written.
    """
    noise = next((shape for node in nodes if (shape := _noise(node)) is not None), None)
    if noise is None:
        return None
    squared = list(_kept(nodes, "PowBackward0", "self", noise))
    raised = list(_kept(nodes, "ExpBackward0", "result", noise))
    logs = list(_kept(nodes, "LogBackward0", "self", noise))
    var = next((b for a in raised for b in raised if a is not b and _same(a.square(), b) and not _same(a, b)), None)
    if var is None:
        deviations = [a for a in squared if any(_same(a, e) for e in raised) or any(_same(a.square(), v) for v in logs)]
        var = deviations[0].square() if deviations else raised[0] if len(raised) == 1 else None
    if var is None:
        return None
    mean = next((a for a in squared if not _same(a.square(), var)), None)
    if mean is None:
        return None
    return float(0.5 * (mean.square() + var - 1 - var.clamp_min(1e-30).log()).sum(1).mean())


def _noise(node: Any) -> tuple[int, ...] | None:
    """The shape of a factor that looks like standard normal noise."""
    factor = constant_factor(node) if node.name() == "MulBackward0" else None
    if factor is None or factor.ndim != 2 or len(factor) < FEWEST or not factor.is_floating_point():
        return None
    values = factor.detach().float()
    deviation, mean = float(values.std()), abs(float(values.mean()))
    return tuple(values.shape) if 0.7 < deviation < 1.3 and mean < 0.3 and bool((values < 0).any()) else None


def _kept(nodes: Iterable[Any], name: str, what: str, shape: tuple[int, ...]) -> Iterable[Tensor]:
    for node in nodes:
        if node.name() == name:
            value = saved(node, what)
            if isinstance(value, Tensor) and tuple(value.shape) == shape and value.is_floating_point():
                yield value.detach().float()


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-3, atol=1e-6)


def made_spread(nodes: Sequence[Any]) -> float | None:
    """The spread of one of two batches that enter the same first layer over that of the other, at most 1; None without
    two. In the loss of a discriminator these are real items and made ones."""
    batches: dict[int, list[Tensor]] = {}
    for node in nodes:
        if (places := _FIRST.get(node.name())) is None:
            continue
        what, own, weight = places
        functions = node.next_functions
        if len(functions) <= weight or functions[own][0] is not None:
            continue
        batch, owner = saved(node, what), functions[weight][0]
        while owner is not None and not hasattr(owner, "variable"):
            owner = owner.next_functions[0][0] if owner.next_functions else None
        if owner is not None and isinstance(batch, Tensor) and len(batch) >= FEWEST and not batch.is_complex():
            batches.setdefault(id(owner.variable), []).append(batch.detach().float().flatten(1))
    for one in batches.values():
        if len(one) == 2 and one[0].shape[1] == one[1].shape[1] and one[0].data_ptr() != one[1].data_ptr():
            low, high = sorted(float(batch.var(0).mean().sqrt()) for batch in one)
            return low / high if high > 0 else None
    return None
