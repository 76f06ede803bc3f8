"""Containers, activations, shapes and dropout on [R, B, ...]."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from homeostat.fleet.random_streams import RandomStreams
from homeostat.fleet.twins.twin import Lifting, Modules, lifted_children, plain_copy, twin_of


@twin_of(nn.Sequential)
def _sequential(modules: Modules, lifting: Lifting, path: str) -> nn.Module:
    return nn.Sequential(OrderedDict(lifted_children(modules, lifting, path)))


@twin_of(nn.ModuleList)
def _module_list(modules: Modules, lifting: Lifting, path: str) -> nn.Module:
    return nn.ModuleList(lifted_children(modules, lifting, path).values())


@twin_of(nn.ModuleDict)
def _module_dict(modules: Modules, lifting: Lifting, path: str) -> nn.Module:
    return nn.ModuleDict(lifted_children(modules, lifting, path))


@twin_of(
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.CELU, nn.SELU, nn.Tanh, nn.Sigmoid,
    nn.LogSigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink, nn.Softplus,
    nn.Softsign, nn.Mish, nn.Threshold,
)  # fmt: skip
def _elementwise(modules: Modules, lifting: Lifting, path: str) -> nn.Module:
    return plain_copy(modules[0])


def _shifted(dim: int) -> int:
    """A dimension of [B, ...] in [R, B, ...]."""
    return dim + 1 if dim >= 0 else dim


@twin_of(nn.Softmax, nn.LogSoftmax)
def _softmax(modules: Modules, lifting: Lifting, path: str) -> nn.Module | None:
    first: Any = modules[0]
    return None if first.dim is None else type(first)(_shifted(first.dim))


@twin_of(nn.Flatten)
def _flatten(modules: Modules, lifting: Lifting, path: str) -> nn.Module:
    first: Any = modules[0]
    return nn.Flatten(_shifted(first.start_dim), _shifted(first.end_dim))


@twin_of(nn.Unflatten)
def _unflatten(modules: Modules, lifting: Lifting, path: str) -> nn.Module | None:
    first: Any = modules[0]
    return nn.Unflatten(_shifted(first.dim), first.unflattened_size) if isinstance(first.dim, int) else None


def dropped(x: Tensor, probability: float, streams: RandomStreams) -> Tensor:
    """x [R, ...] with elements set to zero, others scaled by 1/(1-p); each replica draws from its own stream."""
    if probability == 1.0:
        return x * 0.0
    noise = streams.bernoulli(x.detach(), 1 - probability)
    return x * noise.div_(1 - probability)


class DropoutTwin(nn.Module):
    """Dropout on [R, ...] from the stream of each replica."""

    def __init__(self, probability: float, streams: RandomStreams) -> None:
        super().__init__()
        self._probability, self._streams = probability, streams

    def forward(self, x: Tensor) -> Tensor:
        return dropped(x, self._probability, self._streams) if self.training and self._probability else x


@twin_of(nn.Dropout)
def _dropout(modules: Modules, lifting: Lifting, path: str) -> nn.Module:
    first: Any = modules[0]
    return DropoutTwin(first.p, lifting.streams)


class ChannelDropoutTwin(DropoutTwin):
    """Dropout of whole channels [R, B, C, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self._probability:
            return x
        ones = torch.ones(*x.shape[:3], *(1,) * (x.ndim - 3), dtype=x.dtype, device=x.device)
        return x * dropped(ones, self._probability, self._streams)


@twin_of(nn.Dropout2d, nn.Dropout3d)
def _channel_dropout(modules: Modules, lifting: Lifting, path: str) -> nn.Module:
    first: Any = modules[0]
    return ChannelDropoutTwin(first.p, lifting.streams)
