"""Metrics of the accuracy matrix: what was learned, what was forgotten, what was transferred.

The matrix is [*R, T, T]. Row i has the accuracies on all tasks after training on task i, column j those on task j. NaN
where a task was not evaluated. All results are float64 [*R], means over the tasks that were evaluated; NaN if there is
none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from homeostat.core.errors import BadInput


def average_accuracy(matrix: Tensor) -> Tensor:
    """Mean accuracy over all tasks after the last one.

    Source: Lopez-Paz and Ranzato (2017), arXiv:1706.08840, ACC.

    >>> float(average_accuracy(torch.tensor([[0.9, 0.1], [0.5, 0.7]])).round(decimals=3))
    0.6
    """
    return _checked(matrix)[..., -1, :].nanmean(-1)


def anytime_accuracy(matrix: Tensor) -> Tensor:
    """Mean, over the ends of tasks, of the mean accuracy over the tasks met so far.

    Source: Caccia et al. (2020), arXiv:2003.05856, average anytime accuracy, here at the ends of tasks only.

    >>> float(anytime_accuracy(torch.tensor([[0.9, 0.1], [0.5, 0.7]])).round(decimals=3))
    0.75
    """
    return _met(_checked(matrix)).nanmean(-1).nanmean(-1)


def learning_accuracy(matrix: Tensor) -> Tensor:
    """Mean accuracy on each task right after training on it.

    Source: Riemer et al. (2019), arXiv:1810.11910, learning accuracy.

    >>> float(learning_accuracy(torch.tensor([[0.9, 0.1], [0.5, 0.7]])).round(decimals=3))
    0.8
    """
    return _own(_checked(matrix)).nanmean(-1)


def forgetting(matrix: Tensor) -> Tensor:
    """Best accuracy on a task before the last task minus its accuracy after it, mean over the earlier tasks.

    Source: Chaudhry et al. (2018), arXiv:1801.10112. The best is taken from the end of the task itself on.

    >>> float(forgetting(torch.tensor([[0.9, 0.1], [0.5, 0.7]])).round(decimals=3))
    0.4
    """
    met = _met(_checked(matrix))
    best = torch.where(met.isnan(), -torch.inf, met)[..., :-1, :].amax(-2) if met.shape[-1] > 1 else met[..., 0, :]
    return (torch.where(best.isfinite(), best, torch.nan) - met[..., -1, :])[..., :-1].nanmean(-1)


def backward_transfer(matrix: Tensor) -> Tensor:
    """Accuracy on a task after the last one minus that right after training on it, mean over the earlier tasks.

    Source: Lopez-Paz and Ranzato (2017), arXiv:1706.08840, BWT.

    >>> float(backward_transfer(torch.tensor([[0.9, 0.1], [0.5, 0.7]])).round(decimals=3))
    -0.4
    """
    return (_checked(matrix)[..., -1, :-1] - _own(matrix)[..., :-1]).nanmean(-1)


def forward_transfer(matrix: Tensor, untrained: Tensor) -> Tensor:
    """Accuracy on a task right before training on it minus that before any training, mean over the later tasks.

    Args:
        untrained: accuracies of the untrained network on all tasks, [*R, T].

    Source: Lopez-Paz and Ranzato (2017), arXiv:1706.08840, FWT.

    >>> float(forward_transfer(torch.tensor([[0.9, 0.3], [0.5, 0.7]]), torch.tensor([0.1, 0.1])).round(decimals=3))
    0.2
    """
    before = _checked(matrix).diagonal(offset=1, dim1=-2, dim2=-1)
    return (before - untrained[..., 1:]).nanmean(-1)


def _checked(matrix: Tensor) -> Tensor:
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or not matrix.numel():
        raise BadInput(f"an accuracy matrix is [T, T] with one row and one column a task, got {list(matrix.shape)}")
    return matrix.double()


def _own(matrix: Tensor) -> Tensor:
    return matrix.double().diagonal(dim1=-2, dim2=-1)


def _met(matrix: Tensor) -> Tensor:
    """The matrix with NaN for tasks that come later than the row's."""
    return torch.where(torch.ones_like(matrix, dtype=torch.bool).tril(), matrix, torch.nan)
