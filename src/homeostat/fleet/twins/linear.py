"""Linear layers and embeddings of R replicas as batched matrix products and one look-up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from homeostat.fleet.twins.twin import Lifting, Modules, twin_of

Factors = list[tuple[Tensor, Tensor]]
"""(inputs [R, N, I], gradients of the outputs [R, N, O]) of every use of a layer in a step."""


class _BatchedLinear(torch.autograd.Function):
    """x [R, N, I], weight [R, O, I], bias [R, O] -> [R, N, O]. Called with a list, it appends the factors to it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, factors: Factors | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.factors, ctx.has_bias = factors, bias is not None
        turned = weight.transpose(1, 2)
        return torch.bmm(x, turned) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, turned)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        above = torch.bmm(gradient, weight) if ctx.needs_input_grad[0] else None
        if ctx.factors is not None:
            ctx.factors.append((x, gradient))
            return above, None, None, None
        own = torch.bmm(gradient.transpose(1, 2), x) if ctx.needs_input_grad[1] else None
        bias = gradient.sum(1) if ctx.has_bias and ctx.needs_input_grad[2] else None
        return above, own, bias, None


def batched_linear(x: Tensor, weight: Tensor, bias: Tensor | None, factors: Factors | None = None) -> Tensor:
    """y[r] = x[r] W[r]' + b[r].

    Args:
        x: [R, ..., I].
        weight: [R, O, I].
        bias: [R, O] or None.
        factors: if given, the gradients of weight and bias are not computed; their factors are appended here.

    Returns:
        [R, ..., O].
    """
    rows = x.reshape(x.shape[0], -1, x.shape[-1]) if x.ndim != 3 else x
    y = _BatchedLinear.apply(rows, weight, bias, factors)
    return y if x.ndim == 3 else y.view(*x.shape[:-1], y.shape[-1])  # type: ignore[return-value]


class LinearTwin(nn.Module):
    """R linear layers: [R, ..., in] -> [R, ..., out].

    Attributes:
        factors: of this step's gradients, if `Lifting.factored`.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, modules: Modules, lifting: Lifting, path: str) -> None:
        super().__init__()
        lifting.adopt(self, modules, path)
        self._lifting, self.factors = lifting, Factors()
        if not hasattr(self, "bias"):
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.factors if self._lifting.factored and self.weight.requires_grad else None
        return batched_linear(x, self.weight, self.bias, kept)


@twin_of(nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)
def _linear(modules: Modules, lifting: Lifting, path: str) -> nn.Module:
    return LinearTwin(modules, lifting, path)


class EmbeddingTwin(nn.Module):
    """R tables: integers [R, ...] -> [R, ..., D]."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, modules: Modules, lifting: Lifting, path: str) -> None:
        super().__init__()
        lifting.adopt(self, modules, path)
        first: Any = modules[0]
        self.rows, self.padding = int(first.num_embeddings), first.padding_idx

    def forward(self, index: Tensor) -> Tensor:
        replicas = len(index)
        first_row = torch.arange(replicas, device=index.device) * self.rows
        found = nn.functional.embedding(
            index + first_row.reshape(-1, *(1,) * (index.ndim - 1)), self.weight.flatten(0, 1)
        )
        if self.padding is None:
            return found
        padded = (index == self.padding).unsqueeze(-1)
        return torch.where(padded, found.detach(), found)  # the padding row gets no gradient


@twin_of(nn.Embedding)
def _embedding(modules: Modules, lifting: Lifting, path: str) -> nn.Module | None:
    first: Any = modules[0]
    if first.max_norm is not None or first.scale_grad_by_freq or first.sparse:
        return None
    return EmbeddingTwin(modules, lifting, path)
