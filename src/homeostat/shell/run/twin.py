"""Twins: a second run that starts as an exact or perturbed copy of a run."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from homeostat.core.errors import BadInput, BadSetting, UnknownName
from homeostat.core.random import Draw
from homeostat.shell.hooks.module_tree import named_parameters_in, parameters_in
from homeostat.shell.hooks.wrappers import unwrap
from homeostat.shell.network import Network, check_pair


@overload
def twin(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    sigma: float = ...,
    direction: str | Mapping[str, Tensor] = ...,
    initial: Mapping[str, Tensor] | None = ...,
    seed: int = ...,
) -> tuple[nn.Module, Optimizer]: ...


@overload
def twin(
    model: nn.Module,
    optimizer: Sequence[Optimizer],
    *,
    sigma: float = ...,
    direction: str | Mapping[str, Tensor] = ...,
    initial: Mapping[str, Tensor] | None = ...,
    seed: int = ...,
) -> tuple[nn.Module, list[Optimizer]]: ...


def twin(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    sigma: float = 0.0,
    direction: str | Mapping[str, Tensor] = "gaussian",
    initial: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> tuple[nn.Module, Any]:
    """A copy of a network and its optimizer, optionally with perturbed weights, to train in parallel.

    w' = w + sigma * s0 * u, with u a direction of length 1 over all trained parameters, and s0 the expected norm of the
    weights at initialisation: s0^2 = sum over parameters of size * variance. With sigma = 0 the copy is exact, and
    stays exact bit for bit if it is trained on the same batches; use it as a control. Networks that draw random numbers
    (dropout) need the same random state before both forward passes.

    Args:
        model: the network; the copy has no wrappers for compilation or data parallelism.
        optimizer: the optimizer, or a list of all optimizers, that train it. A scheduler is not copied: build one for
            the copy and load the state of the first.
        sigma: length of the perturbation, relative to s0.
        direction: "gaussian" draws every entry with the standard deviation of its parameter at initialisation, so
            constants (zero biases, weights of norms) do not change; or {parameter name: tensor} of any length, for
            example the gradients of a batch. Other parameters do not change.
        initial: parameter name -> value at initialisation; default: the current values, correct before the first step.
        seed: seed of the direction; torch's random streams are not used.

    Returns:
        The copy and its optimizer (a list if several were given).

    Raises:
        BadInput: model and optimizer do not belong together, the direction has no length, or sigma is so small that
            no weight changes.
        BadSetting: sigma is negative or not finite, or the direction has no such name.
        UnknownName: a direction for a parameter that is not trained.

    Source: Altintas et al. (2025), arXiv:2506.13234, and their code. The code takes the standard deviations from the
    formula of the initialisation, and perturbs constants with that of the next layer unless they are excluded by name.

    >>> model = nn.Linear(4, 2)
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> other, its_optimizer = twin(model, optimizer, sigma=1e-3)
    >>> bool((other.weight != model.weight).any()), type(its_optimizer).__name__
    (True, 'Adam')
    """
    inner, several = unwrap(model)[0], [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    check_pair(inner, several)
    if not (isinstance(sigma, (int, float)) and math.isfinite(sigma) and sigma >= 0):
        raise BadSetting(f"sigma must be a finite number, at least 0, got {sigma!r}")
    trained = Network("", inner, several).values()
    step = perturbation(trained, initial, direction, Draw(seed, ("twin",))) if sigma else {}
    memo: dict[int, Any] = {}
    clone = copy.deepcopy(inner, memo)
    optimizers = [_copied(each, memo) for each in several]
    for own, other in zip(parameters_in(inner), parameters_in(clone), strict=True):
        other.grad = None if own.grad is None else own.grad.detach().clone()
    _move(clone, {name: sigma * part for name, part in step.items()})
    return clone, optimizers[0] if isinstance(optimizer, Optimizer) else optimizers


def perturbation(
    parameters: Mapping[str, Tensor],
    initial: Mapping[str, Tensor] | None,
    direction: str | Mapping[str, Tensor],
    draw: Draw,
) -> dict[str, Tensor]:
    """s0 * u of `twin`, by name.

    Args:
        parameters: name -> value of every trained parameter.
    """
    start = {n: p.detach().double() for n, p in (parameters if initial is None else initial).items()}
    if missing := [n for n in parameters if n not in start or start[n].shape != parameters[n].shape]:
        raise BadInput(f"initial has no value of {missing[0]} that fits: give one for every trained parameter")
    spread = {n: start[n].std(unbiased=False) if start[n].numel() > 1 else start[n].new_zeros(()) for n in parameters}
    norm = math.sqrt(sum(p.numel() * float(spread[n]) ** 2 for n, p in parameters.items()))
    if isinstance(direction, str):
        if direction != "gaussian":
            raise BadSetting(f"direction must be 'gaussian' or a tensor for each parameter by name, got {direction!r}")
        parts = {n: spread[n] * draw.normal(n, start[n]) for n in parameters}
    else:
        parts = {n: _fitting(n, part, parameters) for n, part in direction.items()}
    length = math.sqrt(sum(float(part.square().sum()) for part in parts.values()))
    if not (math.isfinite(length) and length > 0 and math.isfinite(norm) and norm > 0):
        raise BadInput(f"cannot perturb: the direction has length {length:g}, the initial weights have norm {norm:g}")
    return {n: part * (norm / length) for n, part in parts.items()}


def _fitting(name: str, part: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    if name not in parameters:
        raise UnknownName("trained parameter", name, parameters)
    if part.shape != parameters[name].shape:
        raise BadInput(f"the direction of {name} has shape {list(part.shape)}, not {list(parameters[name].shape)}")
    return part.detach().double()


def _copied(optimizer: Optimizer, memo: dict[int, Any]) -> Optimizer:
    """The optimizer of the copied parameters, without hooks and without methods that schedulers have wrapped."""
    clone = copy.deepcopy(optimizer, memo)
    for name, value in vars(optimizer).items():
        if name not in vars(clone) and not callable(value):  # torch's copy omits attributes of subclasses
            setattr(clone, name, copy.deepcopy(value, memo))
    return clone


@torch.no_grad()
def _move(model: nn.Module, step: Mapping[str, Tensor]) -> None:
    parameters, moved = dict(named_parameters_in(model)), not step
    for name, part in step.items():
        before = parameters[name].clone()
        parameters[name].add_(part.to(before))
        moved |= not torch.equal(before, parameters[name])
    if not moved:
        raise BadInput("sigma is so small that no weight changes: it is lost in rounding")
