"""Convolutions and pooling of R replicas: the replicas become groups of channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from homeostat.fleet.twins.twin import Lifting, Modules, twin_of

_CONVOLVE = {
    nn.Conv1d: nn.functional.conv1d,
    nn.Conv2d: nn.functional.conv2d,
    nn.Conv3d: nn.functional.conv3d,
}


def as_channels(x: Tensor) -> Tensor:
    """[R, B, C, ...] -> [B, R*C, ...]. No copy of what `as_replicas` returned."""
    return x.transpose(0, 1).flatten(1, 2)


def as_replicas(x: Tensor, replicas: int) -> Tensor:
    """[B, R*C, ...] -> [R, B, C, ...], a view."""
    return x.unflatten(1, (replicas, -1)).transpose(0, 1)


class ConvTwin(nn.Module):
    """R convolutions as one grouped convolution: [R, B, C, ...] -> [R, B, O, ...]."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, modules: Modules, lifting: Lifting, path: str) -> None:
        super().__init__()
        lifting.adopt(self, modules, path)
        first: Any = modules[0]
        self._convolve = _CONVOLVE[type(first)]
        self._settings = {"stride": first.stride, "padding": first.padding, "dilation": first.dilation}
        self._groups, self._axes = int(first.groups), len(first.kernel_size) + 3
        if not hasattr(self, "bias"):
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != self._axes:
            raise ValueError(f"expected {self._axes} axes [R, B, C, ...], got {list(x.shape)}")
        bias = None if self.bias is None else self.bias.flatten()
        groups = len(x) * self._groups
        y = self._convolve(as_channels(x), self.weight.flatten(0, 1), bias, groups=groups, **self._settings)
        return as_replicas(y, len(x))


@twin_of(*_CONVOLVE)
def _conv(modules: Modules, lifting: Lifting, path: str) -> nn.Module | None:
    first: Any = modules[0]
    return ConvTwin(modules, lifting, path) if first.padding_mode == "zeros" else None


class PoolTwin(nn.Module):
    """A pooling layer on [R, B, C, ...]."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self._pool = [pool]  # in a list, so that it is no child

    def forward(self, x: Tensor) -> Tensor:
        return as_replicas(self._pool[0](as_channels(x)), len(x))


@twin_of(
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
def _pool(modules: Modules, lifting: Lifting, path: str) -> nn.Module | None:
    first: Any = modules[0]
    return None if getattr(first, "return_indices", False) else PoolTwin(first)
