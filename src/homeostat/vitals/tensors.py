"""Small pure helpers of the vitals: precision, counting, and marking what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from homeostat.core.readings import layer_of


def real(values: Tensor) -> Tensor:
    """The values in float32, or in float64 if they were; half precision and integers are widened."""
    return values if values.dtype in (torch.float32, torch.float64) else values.to(torch.float32)


def precise(values: Tensor) -> Tensor:
    """The values in float64, or in float32 on a device that has no float64."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def known(value: Tensor, ok: Tensor) -> Tensor:
    """`value` where `ok`, NaN ("missing") elsewhere."""
    return value.masked_fill(~ok, float("nan"))


def fraction(mask: Tensor) -> Tensor:
    """Share of set entries along the last axis: [*R, H] -> [*R]; NaN when there are none to count."""
    return mask.to(torch.float32).mean(-1)


def sample_count(activations: Tensor) -> Tensor:
    """Number of samples N of [*R, N, H], as int64 [*R]."""
    shape = activations.shape
    return torch.full(shape[:-2], shape[-2], dtype=torch.int64, device=activations.device)


def extremes(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of every unit over the samples: two [*R, H]; (inf, -inf) when there are none."""
    if activations.shape[-2] == 0:
        empty = activations.new_zeros((*activations.shape[:-2], activations.shape[-1]))
        return empty + float("inf"), empty - float("inf")
    if activations.shape[-1] == 0:
        return activations.sum(-2), activations.sum(-2)
    low, high = torch.aminmax(activations, dim=-2)
    return low, high


def square_sum(values: Tensor, replica_axes: int) -> Tensor:
    """Sum of squares over everything but the replica axes: [*R, *shape] -> float64 [*R].

    The norm is taken in float32 (4 times as fast as float64 here), so entries that are all below about 1e-19 read as
    0 and entries above about 1e19 as infinite.
    """
    flat = real(values.detach()).reshape(*values.shape[:replica_axes], -1)
    return precise(torch.linalg.vector_norm(flat, dim=-1)).square()


def root(square: Tensor) -> Tensor:
    """Square root of a sum of squares; missing where that is not finite."""
    return known(square.sqrt(), square.isfinite())


def layer_sums(tensors: Mapping[str, Tensor], replica_axes: int) -> dict[str, Tensor]:
    """Sum of squares of every layer's parameters together: layer -> float64 [*R]. Empty layers are left out."""
    totals: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if value.numel():
            square, layer = square_sum(value, replica_axes), layer_of(name)
            totals[layer] = totals[layer] + square if layer in totals else square
    return totals


def flat_parameters(parameters: Mapping[str, Tensor]) -> tuple[Tensor, Callable[[Tensor], dict[str, Tensor]]]:
    """All parameters as one detached vector [P], at least float32, and the function that names its parts again.

    The parts have the shapes and dtypes of the originals and are differentiable with respect to the vector.
    """
    kinds = {name: (p.shape, p.dtype) for name, p in parameters.items()}
    sizes = [p.numel() for p in parameters.values()]
    flat = torch.cat([real(p.detach()).flatten() for p in parameters.values()]) if kinds else torch.zeros(0)

    def named(vector: Tensor) -> dict[str, Tensor]:
        parts = zip(vector.split(sizes), kinds.items(), strict=True)
        return {name: part.reshape(shape).to(dtype) for part, (name, (shape, dtype)) in parts}

    return flat, named
