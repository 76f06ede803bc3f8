"""Masks of weights: pruning, regrowth and sparse initialisation.

A mask is boolean with the shape of its weight [*R, *shape]; True is an active weight. Counts are exact: among equal
scores the earlier element (layers in order, then row by row) ranks higher. No shape depends on the data; counts may
differ between replicas.
"""

# Torch's stubs leave `Tensor.split` untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from homeostat.core.random import Draw


def highest(score: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """The `count` highest scores among the marked elements; all of them if fewer are marked.

    Args:
        score: [*R, N], not negative; NaN counts as 0.
        among: bool [*R, N].
        count: int64 [*R] or 0-dim.

    Returns:
        Bool [*R, N].
    """
    order = torch.where(among, score.nan_to_num(0.0, torch.inf), -1.0).argsort(dim=-1, descending=True, stable=True)
    taken = torch.arange(score.shape[-1], device=score.device) < count.to(score.device).unsqueeze(-1)
    return torch.zeros_like(among).scatter(-1, order, taken.expand_as(among)) & among


def prune(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], kept: Tensor, lead: int = 0) -> dict[str, Tensor]:
    """Keep the `kept` largest active weights of all layers together, by magnitude.

    Args:
        weights: name -> value [*R, *shape].
        masks: name -> mask before.
        kept: int64 [*R] or 0-dim.
        lead: number of replica axes.
    """
    flat = {name: mask.flatten(lead) for name, mask in masks.items()}
    size = torch.cat([_size(weights[name]).flatten(lead) for name in flat], -1)
    chosen = highest(size, torch.cat(list(flat.values()), -1), kept)
    parts = chosen.split([mask.shape[-1] for mask in flat.values()], -1)
    return {name: part.reshape(masks[name].shape) for name, part in zip(flat, parts, strict=True)}


def regenerate(weight: Tensor, mask: Tensor, score: Tensor, fraction: Tensor, lead: int = 0) -> Tensor:
    """Exchange active weights of one layer: deactivate the smallest `fraction`, activate as many others.

    Deactivates the ceil(fraction * active) weights of smallest magnitude. Then activates as many of all inactive
    weights, including those just deactivated, by highest score. The number of active weights stays the same.

    Args:
        weight, mask, score: [*R, *shape].
        fraction: float64 [*R] or 0-dim, in [0, 1].
        lead: number of replica axes.
    """
    size, active, worth = _size(weight).flatten(lead), mask.flatten(lead), score.flatten(lead)
    total = active.sum(-1)
    precise = torch.float32 if total.device.type == "mps" else torch.float64
    exchanged = (fraction.to(total.device, precise) * total).ceil().to(torch.int64)
    stay = highest(size, active, total - exchanged)
    return (stay | highest(worth, ~stay, exchanged)).reshape(mask.shape)


def _size(weight: Tensor) -> Tensor:
    return weight.abs().to(torch.promote_types(weight.dtype, torch.float32))


def erdos_renyi_kernel(shapes: Sequence[Sequence[int]], kept: int) -> list[int]:
    """Number of active weights of each layer, with density in proportion to sum(shape) / prod(shape), at most 1.

    Layers whose share would exceed their size are dense; the others share the rest. Counts are rounded by largest
    remainder and add up to `kept` exactly.

    Source: Mocanu et al. (2018), arXiv:1707.04780; Evci et al. (2020), arXiv:1911.11134 (with kernels).
    """
    sizes, dense = [math.prod(shape) for shape in shapes], set[int]()
    while True:
        rest = kept - sum(sizes[i] for i in dense)
        total = sum(sum(shape) for i, shape in enumerate(shapes) if i not in dense) or 1
        share = [float(sizes[i]) if i in dense else rest * sum(s) / total for i, s in enumerate(shapes)]
        over = [share[i] / sizes[i] if i not in dense else 0.0 for i in range(len(shapes))]
        if max(over, default=0.0) <= 1:
            break
        dense |= {i for i, value in enumerate(over) if value == max(over)}
    counts = [math.floor(value) for value in share]
    fullest_first = sorted(range(len(shapes)), key=lambda i: counts[i] - share[i])
    for i in fullest_first[: kept - sum(counts)]:
        counts[i] += 1
    return counts


def scattered(weights: Mapping[str, Tensor], counts: Sequence[int], draw: Draw, lead: int = 0) -> dict[str, Tensor]:
    """Masks with `counts` active weights per layer at random positions."""
    masks: dict[str, Tensor] = {}
    for (name, weight), count in zip(weights.items(), counts, strict=True):
        score = draw.uniform(f"{name}/mask", _size(weight)).flatten(lead)
        every = torch.ones_like(score, dtype=torch.bool)
        masks[name] = highest(score, every, torch.tensor(count)).reshape(weight.shape)
    return masks


def cubic(progress: float, start: Tensor, end: Tensor) -> Tensor:
    """Sparsity of a cubic schedule: end + (start - end) (1 - progress)^3, progress in [0, 1].

    Source: Zhu, Gupta (2017), arXiv:1710.01878, equation 1.
    """
    return end + (start - end) * (1 - min(max(progress, 0.0), 1.0)) ** 3


def cosine(progress: float, start: Tensor, low: float) -> Tensor:
    """Half a cosine from `start` down to min(`low`, `start`), progress in [0, 1]."""
    floor = start.clamp(max=low)
    return floor + (start - floor) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2
