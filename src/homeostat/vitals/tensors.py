"""Small pure helpers of the vitals: precision, counting, missing values."""

# Torch's stubs leave `torch.linalg` and `Tensor.split` untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from homeostat.core.snapshot import layer_of


def real(values: Tensor) -> Tensor:
    """The values in at least float32; float64 is kept. Of complex values the magnitudes."""
    values = values.abs() if values.is_complex() else values
    return values if values.dtype in (torch.float32, torch.float64) else values.to(torch.float32)


def stored(values: Tensor) -> Tensor:
    """The stored entries of a sparse tensor; a dense tensor as it is."""
    if values.layout == torch.sparse_coo:
        return values.detach().coalesce().values()
    return values if values.layout == torch.strided else values.detach().to_sparse().coalesce().values()


def precise(values: Tensor) -> Tensor:
    """The values in float64, or in float32 on a device that has no float64. Of complex values the magnitudes."""
    values = values.abs() if values.is_complex() else values
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def known(value: Tensor, ok: Tensor) -> Tensor:
    """`value` where `ok`, NaN ("missing") elsewhere."""
    return value.masked_fill(~ok, float("nan"))


def fraction(mask: Tensor) -> Tensor:
    """Share of true entries along the last axis: [*R, H] -> [*R]; NaN if the axis is empty."""
    return mask.to(torch.float32).mean(-1)


def sample_count(activations: Tensor) -> Tensor:
    """Number of samples N of [*R, N, H], as int64 [*R]."""
    shape = activations.shape
    return torch.full(shape[:-2], shape[-2], dtype=torch.int64, device=activations.device)


def extremes(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of every unit over the samples: two [*R, H]; (inf, -inf) without samples."""
    if activations.shape[-2] == 0:
        empty = activations.new_zeros((*activations.shape[:-2], activations.shape[-1]))
        return empty + float("inf"), empty - float("inf")
    if activations.shape[-1] == 0:
        return activations.sum(-2), activations.sum(-2)
    low, high = torch.aminmax(activations, dim=-2)
    return low, high


def square_sum(values: Tensor, replica_axes: int) -> Tensor:
    """Sum of squares over all axes but the replica axes: [*R, *shape] -> float64 [*R].

    The norm is computed in float32 (4 times as fast as float64 here), so the result is 0 if all entries are below about
    1e-19, and infinite if one is above about 1e19.
    """
    values = stored(values)
    flat = real(values.detach()).reshape(*values.shape[:replica_axes], -1)
    return precise(torch.linalg.vector_norm(flat, dim=-1)).square()


def root(square: Tensor) -> Tensor:
    """Square root of a sum of squares; missing where the sum is not finite."""
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
    """All parameters as one detached vector [P], at least float32, and the function that splits it again.

    The parts have the names, shapes and dtypes of the parameters and are differentiable with respect to the vector.
    """
    kinds = {name: (p.shape, p.dtype) for name, p in parameters.items()}
    sizes = [p.numel() for p in parameters.values()]
    flat = torch.cat([real(p.detach()).flatten() for p in parameters.values()]) if kinds else torch.zeros(0)

    def named(vector: Tensor) -> dict[str, Tensor]:
        parts = zip(vector.split(sizes), kinds.items(), strict=True)
        return {name: part.reshape(shape).to(dtype) for part, (name, (shape, dtype)) in parts}

    return flat, named
