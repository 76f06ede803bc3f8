"""Find the distribution from which each parameter was initialised: torch's default, checked against its values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from homeostat.core.treatment import Fresh
from homeostat.shell.hooks.module_tree import named_modules_in, named_parameters_in
from homeostat.shell.hooks.torch_internals import TRANSPOSED_CONV, is_plain, own_parameters
from homeostat.shell.unit_graph.module_roles import Role, role_of

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TABLES = (nn.Embedding, nn.EmbeddingBag)
_MIN_FOR_SHAPE = 12


def fresh_distributions(model: nn.Module) -> dict[str, Fresh]:
    """Parameter name -> the distribution of new values.

    Known modules give torch's default (`reset_parameters`): Linear and convolutions U(-b, b) with b = 1/sqrt(fan_in)
    for weight and bias, recurrent layers b = 1/sqrt(hidden), embeddings N(0, 1), norms 1 and 0. Where the values found
    now contradict it (own initialisation: orthogonal, Kaiming for ReLU, zeros, ...), the distribution is read off the
    values: constant if all are equal, uniform if their kurtosis is below 2.4 (uniform 1.8, normal 3), else normal,
    with the standard deviation found. Call it before training starts.
    """
    found: dict[str, Fresh] = {}
    for path, module in named_modules_in(model):
        default = _defaults(module)
        for key, parameter in own_parameters(module).items():
            if parameter is None:
                continue
            name = f"{path}.{key}" if path else key
            found[name] = _checked(parameter.detach(), default(key))
    return {name: found[name] for name, _ in named_parameters_in(model)}


def norm_parameters(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that belong to normalisation layers, torch's and look-alikes (`LlamaRMSNorm`)."""
    return frozenset(
        f"{path}.{key}" if path else key
        for path, module in named_modules_in(model)
        if role_of(module) is Role.NORM
        for key, own in own_parameters(module).items()
        if own is not None
    )


def _defaults(module: nn.Module) -> Callable[[str], Fresh | None]:
    if isinstance(module, (nn.Linear, *_CONVS)):
        fan_in = max(_fan_in(module), 1)
        return lambda key: Fresh("uniform", 1 / math.sqrt(fan_in)) if key in ("weight", "bias") else None
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return lambda key: Fresh("uniform", 1 / math.sqrt(max(module.hidden_size, 1)))
    if isinstance(module, _TABLES):
        return lambda key: Fresh("normal", 1.0)
    if role_of(module) is Role.NORM:
        return lambda key: Fresh("constant", mean=0.0 if "bias" in key else 1.0)
    return lambda key: None


def _fan_in(module: Any) -> int:
    """Fan-in of a Linear or a convolution, without reading a weight that may be computed."""
    linear, transposed = isinstance(module, nn.Linear), isinstance(module, TRANSPOSED_CONV)
    if linear:
        return module.in_features
    return (module.out_channels if transposed else module.in_channels) // module.groups * math.prod(module.kernel_size)


def _checked(value: Tensor, default: Fresh | None) -> Fresh:
    if _unreadable(value):
        return default or Fresh("constant")
    numbers = value.flatten().double()
    if default is not None and _agrees(numbers, default):
        return default
    return _observed(numbers)


def _unreadable(value: Tensor) -> bool:
    """Whether the values cannot be examined: empty, on the meta device, lazy, complex, not finite, or spread over
    processes, where every operation is a collective that all of them would have to join."""
    if isinstance(value, nn.parameter.UninitializedParameter) or value.is_meta or not value.is_floating_point():
        return True
    if not is_plain(value):
        return True
    return value.numel() == 0 or not bool(torch.isfinite(value).all())


def _agrees(numbers: Tensor, default: Fresh) -> bool:
    """Whether the values can be a sample of the distribution: spread within 10 % or 4 standard errors; range."""
    n, off = numbers.numel(), numbers - default.mean
    if default.kind == "constant":
        return not bool(off.any())
    deviation = default.scale / math.sqrt(3) if default.kind == "uniform" else default.scale
    if default.kind == "uniform" and float(off.abs().max()) > default.scale * 1.01:
        return False
    if n > 1 and float(numbers.amax()) == float(numbers.amin()):
        return False
    spread, tolerance = float(off.square().mean().sqrt()), max(0.1, 4 * 0.75 / math.sqrt(n))
    centred = abs(float(off.mean())) <= 5 * deviation / math.sqrt(n)
    return centred and abs(spread / deviation - 1) <= tolerance


def _observed(numbers: Tensor) -> Fresh:
    mean, deviation = float(numbers.mean()), float(numbers.std(unbiased=False))
    if float(numbers.amax()) == float(numbers.amin()) or deviation == 0:
        return Fresh("constant", mean=mean)
    kurtosis = float(((numbers - mean) / deviation).pow(4).mean())
    centre = 0.0 if abs(mean) <= 4 * deviation / math.sqrt(numbers.numel()) else mean
    if kurtosis < 2.4 and numbers.numel() >= _MIN_FOR_SHAPE:
        return Fresh("uniform", deviation * math.sqrt(3), centre)
    return Fresh("normal", deviation, centre)
