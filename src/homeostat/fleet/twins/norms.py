"""Normalisation layers of R replicas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from homeostat.fleet.twins.convolution import as_channels, as_replicas
from homeostat.fleet.twins.twin import Lifting, Modules, twin_of


class NormTwin(nn.Module):
    """A norm over the features of single samples: the plain norm, then weight and bias of each replica.

    Args:
        axes: number of trailing axes that weight and bias span; 0 for channels at axis 2.
    """

    def __init__(self, modules: Modules, lifting: Lifting, path: str, axes: int) -> None:
        super().__init__()
        lifting.adopt(self, modules, path)
        first: Any = modules[0]
        self._axes, self._eps = axes, first.eps
        self._shape = list(getattr(first, "normalized_shape", ()))
        self._groups = getattr(first, "num_groups", 0)
        self._root_mean_square = isinstance(first, nn.RMSNorm)

    def forward(self, x: Tensor) -> Tensor:
        if self._root_mean_square:
            y = nn.functional.rms_norm(x, self._shape, eps=self._eps)
        elif self._groups:
            y = nn.functional.group_norm(x.flatten(0, 1), self._groups, eps=self._eps).view_as(x)
        else:
            y = nn.functional.layer_norm(x, self._shape, eps=self._eps)
        weight, bias = getattr(self, "weight", None), getattr(self, "bias", None)
        if weight is not None and bias is not None:
            return torch.addcmul(self._spread(bias, y), y, self._spread(weight, y))
        return y if weight is None else y * self._spread(weight, y)

    def _spread(self, per_replica: Tensor, like: Tensor) -> Tensor:
        if self._axes:
            between = like.ndim - 1 - self._axes
            return per_replica.reshape(len(per_replica), *(1,) * between, *per_replica.shape[1:])
        return per_replica.reshape(len(per_replica), 1, -1, *(1,) * (like.ndim - 3))


@twin_of(nn.LayerNorm, nn.RMSNorm)
def _layer_norm(modules: Modules, lifting: Lifting, path: str) -> nn.Module:
    first: Any = modules[0]
    return NormTwin(modules, lifting, path, len(first.normalized_shape))


@twin_of(nn.GroupNorm)
def _group_norm(modules: Modules, lifting: Lifting, path: str) -> nn.Module:
    return NormTwin(modules, lifting, path, 0)


class BatchNormTwin(nn.Module):
    """R batch norms as one over R*C channels: [R, B, C, ...]."""

    num_batches_tracked: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, modules: Modules, lifting: Lifting, path: str) -> None:
        super().__init__()
        lifting.adopt(self, modules, path)
        first: Any = modules[0]
        self._eps, self._momentum = first.eps, first.momentum
        self._axes = {nn.BatchNorm1d: (3, 4), nn.BatchNorm2d: (5,), nn.BatchNorm3d: (6,)}[type(first)]
        self.running = bool(first.track_running_stats)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim not in self._axes:
            raise ValueError(f"expected [R, B, C, ...] with {self._axes} axes, got {list(x.shape)}")
        momentum = self._momentum
        if self.training and self.running:
            self.num_batches_tracked.add_(1)
            momentum = 1.0 / float(self.num_batches_tracked[0]) if momentum is None else momentum
        mean, var = (self.running_mean.flatten(), self.running_var.flatten()) if self.running else (None, None)
        weight, bias = getattr(self, "weight", None), getattr(self, "bias", None)
        y = nn.functional.batch_norm(
            as_channels(x),
            mean,
            var,
            None if weight is None else weight.flatten(),
            None if bias is None else bias.flatten(),
            self.training or not self.running,
            0.0 if momentum is None else momentum,
            self._eps,
        )
        return as_replicas(y, len(x))


@twin_of(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def _batch_norm(modules: Modules, lifting: Lifting, path: str) -> nn.Module:
    return BatchNormTwin(modules, lifting, path)
