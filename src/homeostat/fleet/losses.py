"""Losses of R replicas from a loss function of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.func import vmap

Loss = Callable[[Any, Any], Tensor]


def replica_losses(loss_fn: Loss) -> Loss:
    """A function of outputs [R, B, ...] and targets [R, B, ...] that gives one loss per replica, [R].

    Cross-entropy and the mean squared error with default settings are computed directly, others under
    `torch.func.vmap`.

    Args:
        loss_fn: (outputs [B, ...], targets [B, ...]) -> 0-dim loss, e.g. `F.cross_entropy`.
    """
    lifted: Loss = vmap(loss_fn)
    if _is(loss_fn, nn.functional.cross_entropy, nn.CrossEntropyLoss):
        return lambda outputs, targets: _cross_entropy(outputs, targets, lifted)
    if _is(loss_fn, nn.functional.mse_loss, nn.MSELoss):
        return lambda outputs, targets: (outputs - targets).square().flatten(1).mean(1)
    return lifted


def _is(loss_fn: Any, function: Callable[..., Any], module: type[nn.Module]) -> bool:
    return loss_fn is function or (type(loss_fn) is module and repr(loss_fn) == repr(module()) and _plain(loss_fn))


def _plain(loss_fn: Any) -> bool:
    """Whether a loss module has its default settings."""
    default = type(loss_fn)()
    return all(
        getattr(loss_fn, key, None) == getattr(default, key, None)
        for key in ("reduction", "ignore_index", "label_smoothing")
    ) and (getattr(loss_fn, "weight", None) is None)


def _cross_entropy(outputs: Tensor, targets: Tensor, lifted: Loss) -> Tensor:
    if outputs.ndim != 3 or targets.ndim != 2:
        return lifted(outputs, targets)
    each = nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    # items with the label -100 count neither above nor below
    counted = (targets != -100).sum(1)
    return each.sum(1) / counted
