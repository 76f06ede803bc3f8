"""Batch normalisation with statistics balanced over tasks: the layers that the treatment `adab2n` inserts."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from homeostat.core.batch_tasks import Composition
from homeostat.treatments.normalization.recast import recast


class TaskWeights(nn.Module):
    """The learned part of the task weights. It is a separate module because its parameter has no unit axis.

    Args:
        tasks: number of tasks that are distinguished; later tasks count as the last one. The shape stays fixed.
    """

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.log_concentration = nn.Parameter(torch.zeros(tasks))

    def shares(self, counts: Tensor, prior: float, met: int) -> Tensor:
        """Shares of the tasks, the mean of a Dirichlet posterior: numbers of items [K] -> [K].

            share_k = (prior * exp(psi_k) + count_k) / sum_j (prior * exp(psi_j) + count_j)

        Tasks without an item have the share 0. The sum is over tasks with an item and over the first `met` tasks.
        """
        concentration = prior * self.log_concentration.to(counts).exp() + counts
        here = counts > 0
        summed = here | (torch.arange(len(counts), device=counts.device) < met)
        return torch.where(here, concentration, 0.0) / torch.where(summed, concentration, 0.0).sum()


class Balanced:
    """Common part of the three layers; see `homeostat.treatments.normalization.adab2n` for formulas and settings.

    Attributes:
        dims: numbers of dimensions that an input may have.
        kappa, prior, penalty, absent_too: settings.
        balance: the learned part of the task weights.
        composition: the task of each item of the batch.
    """

    dims: tuple[int, ...]
    kappa: float
    prior: float
    penalty: float
    absent_too: bool
    balance: TaskWeights
    composition: Composition

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [N, C, ...]. In training, also update the running statistics."""
        norm: Any = self
        if not norm.training:
            return super().forward(input)  # type: ignore[misc]
        tasks = self.composition.of(len(input)) if self.prior > 0 or self.penalty > 0 else None
        if tasks is None and self.kappa == 1.0:
            return super().forward(input)  # type: ignore[misc]
        if input.ndim not in self.dims:
            raise ValueError(f"expected an input of {' or '.join(map(str, self.dims))} dimensions, got {input.ndim}")
        norm.num_batches_tracked.add_(1)
        if tasks is None or input.numel() < 2 * input.shape[1]:
            output, mean, var = self._by_batch(input)
            self._track(mean, var)
            return output
        output, mean, var = self._by_task(input, tasks)
        self._track(mean, var)
        if self.penalty > 0:
            self.composition.added.append(self.penalty * self._distance(mean, var))
        return output

    def _by_batch(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Plain batch statistics, by torch's kernel; the variance is unbiased."""
        norm: Any = self
        mean, var = torch.zeros_like(norm.running_mean), torch.ones_like(norm.running_var)
        output = F.batch_norm(input, mean, var, norm.weight, norm.bias, True, 1.0, norm.eps)
        return output, mean, var

    def _by_task(self, input: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Batch statistics with the weight share_k / m_k for every item of task k."""
        norm: Any = self
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        x = x.flatten(2) if x.ndim > 2 else x[..., None]
        told_apart = len(self.balance.log_concentration)
        belongs = (tasks.clamp(max=told_apart - 1)[:, None] == torch.arange(told_apart, device=tasks.device)).to(x)
        counts = belongs.sum(0)
        share = self.balance.shares(counts, self.prior, self.composition.count if self.absent_too else 0)
        weight = belongs @ (share / counts.clamp(min=1))
        mean = weight @ x.mean(2)
        var = weight @ (x - mean[:, None]).square().mean(2)
        output = (x - mean[:, None]) * (var + norm.eps).rsqrt()[:, None]
        if norm.affine:
            output = output * norm.weight[:, None] + norm.bias[:, None]
        values = x.shape[0] * x.shape[2]
        return output.reshape(input.shape).to(input.dtype), mean, var * (values / (values - 1))

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Update the running statistics with momentum eta_t; non-finite values are skipped."""
        norm: Any = self
        eta = momentum(norm.num_batches_tracked, norm.momentum, self.kappa)
        for running, found in ((norm.running_mean, mean), (norm.running_var, var)):
            wide = torch.promote_types(running.dtype, torch.float32)
            moved = running.to(wide).lerp(found.to(wide), eta.to(wide)).to(running.dtype)
            running.copy_(torch.where(moved.isfinite(), moved, running))

    def _distance(self, mean: Tensor, var: Tensor) -> Tensor:
        """Mean squared distance between the batch's and the running statistics; the latter are constants."""
        norm: Any = self
        kept = [running.detach().to(mean, copy=True) for running in (norm.running_mean, norm.running_var)]
        return F.mse_loss(mean, kept[0]) + F.mse_loss(var, kept[1])


def momentum(number: Tensor, eta: float, kappa: float) -> Tensor:
    """The momentum eta_t of batch number t (from 1), 0-dim: the closed form of

        eta_1 = eta ** kappa,   eta_t = eta_{t-1} / (eta_{t-1} + (1 - eta) ** kappa)

    In r = 1 / eta_t the recursion is linear, r_t = 1 + c r_{t-1} with c = (1 - eta) ** kappa, so

        r_t = (1 - c ** (t-1)) / (1 - c) + c ** (t-1) / eta ** kappa

    which needs only the count that the layer keeps anyway, so it survives saving, copying and resuming. It falls to
    1 - c. `kappa` 1 gives eta at every t (the moving average), `kappa` 0 gives 1/t (the mean over all batches).
    """
    before = (number - 1).to(torch.float64 if number.device.type != "mps" else torch.float32)
    if kappa == 0.0:
        return 1 / (before + 1)
    if kappa == 1.0 or eta == 1.0:
        return torch.full_like(before, eta)
    log_c = kappa * math.log1p(-eta)
    kept = (before * log_c).exp()
    return 1 / ((1 - kept) / -math.expm1(log_c) + kept / eta**kappa)


class BalancedBatchNorm1d(Balanced, nn.BatchNorm1d):
    """`nn.BatchNorm1d` with balanced statistics."""

    dims = (2, 3)


class BalancedBatchNorm2d(Balanced, nn.BatchNorm2d):
    """`nn.BatchNorm2d` with balanced statistics."""

    dims = (4,)


class BalancedBatchNorm3d(Balanced, nn.BatchNorm3d):
    """`nn.BatchNorm3d` with balanced statistics."""

    dims = (5,)


BALANCED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: BalancedBatchNorm1d,
    nn.BatchNorm2d: BalancedBatchNorm2d,
    nn.BatchNorm3d: BalancedBatchNorm3d,
}
"""Class of a layer -> class of its replacement."""


def balanced(module: nn.Module, *, kappa: float, prior: float, penalty: float, absent_too: bool, tasks: int) -> Any:
    """The same layer with balanced statistics. It shares parameters, running statistics and hooks with `module`.

    Args:
        module: an instance of a class in `BALANCED`, or a balanced layer, whose learned weights are kept.
        tasks: see `TaskWeights`.
    """
    kind = BALANCED.get(type(module), type(module))
    new = recast(module, kind)
    new.kappa, new.prior, new.penalty, new.absent_too = kappa, prior, penalty, absent_too
    new.composition = Composition()
    if not hasattr(new, "balance"):
        new.balance = TaskWeights(tasks)
    return new
