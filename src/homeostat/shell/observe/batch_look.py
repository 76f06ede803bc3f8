"""Summary statistics of batches, and whether two batches come from different data. Pure functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_FEATURES = 1024
"""Largest number of input features that are used; of larger inputs this many, evenly spaced."""
PROJECTIONS = 64
"""Number of random projections of inputs, which show changes that keep the mean of every feature."""
BUCKETS = 256
"""Number of distinguished classes of integers (tokens)."""
FEWEST = 8
"""Smaller batches are not compared."""
LARGEST_Z = 10.0
"""Limit of one feature, in standard errors."""
DIFFERENT = 5.0
"""Mean squared difference of two batches' features in standard errors above which they differ; 1 is expected for equal
data."""
OTHER_LABELS = 0.5
"""Total variation distance of the labels above which two batches have different classes."""


@dataclass(frozen=True)
class Look:
    """Summary statistics of a batch, on the host.

    Args:
        items: number of items.
        labels: counts of the class labels, float64 [C]; None without classes.
        words: counts of integer inputs, float64 [BUCKETS]; None for floating-point inputs.
        mean, variance: of features of the inputs, float64 [F]; None for integer inputs.
    """

    items: int
    labels: Tensor | None = None
    words: Tensor | None = None
    mean: Tensor | None = None
    variance: Tensor | None = None


def look_at(inputs: Tensor, items: int, labels: Tensor | None, classes: int) -> Look:
    """The summary of a batch.

    Args:
        inputs: [items, ...].
        labels: class labels, of any shape; None without classes.
        classes: number of classes.
    """
    counts = None if labels is None else torch.bincount(labels.reshape(-1), minlength=classes).double().cpu()
    inputs = torch.view_as_real(inputs) if inputs.is_complex() else inputs
    if not inputs.is_floating_point():
        words = torch.bincount(inputs.reshape(-1).long().remainder(BUCKETS), minlength=BUCKETS)
        return Look(items, counts, words.double().cpu())
    rows = inputs.float().reshape(items, -1)
    rows = rows[:, :: max(rows.shape[1] // MOST_FEATURES, 1)]
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn(rows.shape[1], PROJECTIONS, generator=draw, dtype=torch.float32).to(rows.device)
    along = rows @ directions / math.sqrt(rows.shape[1])
    features = torch.cat([rows, rows.square(), along.square(), along.cos()], 1).double()
    return Look(items, counts, None, features.mean(0).cpu(), features.var(0, correction=int(items > 1)).cpu())


def pooled(looks: Sequence[Look]) -> Look:
    """The summary of several batches together: the last, and all others with its kind and shape."""
    first = looks[-1]
    looks = [look for look in looks if _shape(look) == _shape(first)]
    items = sum(look.items for look in looks)
    labels = [look.labels for look in looks if look.labels is not None]
    words = [look.words for look in looks if look.words is not None]
    means = [look.mean * look.items / items for look in looks if look.mean is not None]
    squares = [
        (look.variance + look.mean.square()) * look.items / items
        for look in looks
        if look.mean is not None and look.variance is not None
    ]
    mean = torch.stack(means).sum(0) if means else None
    return Look(
        items,
        torch.stack(labels).sum(0) if first.labels is not None else None,
        torch.stack(words).sum(0) if first.words is not None else None,
        mean,
        (torch.stack(squares).sum(0) - mean.square()).clamp_min(0) if mean is not None else None,
    )


def _shape(look: Look) -> tuple[int, ...]:
    return tuple(0 if part is None else len(part) for part in (look.labels, look.words, look.mean))


def difference(first: Look, second: Look) -> str:
    """What differs between two batches: "classes", "inputs", or "" if nothing does."""
    if min(first.items, second.items) < FEWEST:
        return ""
    if _other_counts(first.labels, second.labels):
        return "classes"
    if _other_counts(first.words, second.words) or _other_features(first, second):
        return "inputs"
    return ""


def _other_counts(first: Tensor | None, second: Tensor | None) -> bool:
    """Whether half of the counts differ, and by more than chance explains (chi-squared of two samples)."""
    if first is None or second is None or first.shape != second.shape:
        return False
    a, b = float(first.sum()), float(second.sum())
    if min(a, b) < FEWEST or float((first / a - second / b).abs().sum()) / 2 < OTHER_LABELS:
        return False
    seen = (first + second) > 0
    squares = (first * math.sqrt(b / a) - second * math.sqrt(a / b)).square()[seen] / (first + second)[seen]
    freedom = max(int(seen.sum()) - 1, 1)
    return float(squares.sum()) > freedom + 6 * math.sqrt(2 * freedom)


def _other_features(first: Look, second: Look) -> bool:
    if first.mean is None or second.mean is None or first.variance is None or second.variance is None:
        return False
    if first.mean.shape != second.mean.shape:
        return False
    error = first.variance / first.items + second.variance / second.items
    apart = (first.mean - second.mean).square()
    varied = error > 1e-12 * (1 + apart.max())
    if not bool(varied.any()):
        return False
    squares = (apart / error.clamp_min(1e-30)).clamp_max(LARGEST_Z**2)[varied]
    raw = len(squares) - int(varied[-2 * PROJECTIONS :].sum())
    return max(float(part.mean()) for part in (squares[:raw], squares[raw:]) if len(part)) > DIFFERENT
