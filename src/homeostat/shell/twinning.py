"""Twin runs: cloning a run, perturbed or exactly, and reading the clone beside the run it came from."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from homeostat.core.draw import Draw
from homeostat.core.errors import BadInput, BadSetting, UnknownName
from homeostat.core.readings import Probe, Twin
from homeostat.shell.averages import misfit
from homeostat.shell.discovery import unwrap
from homeostat.shell.losses import found_overflow
from homeostat.shell.network import Network, check_pair
from homeostat.vitals.twins import mixed


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
    """A second run from where this one is: a copy of the network and of its optimizer, moved by a tiny step or none.

    w' = w + sigma * s0 * u, with u a direction of length 1 over all trained parameters together and s0 the norm the
    weights are expected to have at initialisation: s0^2 = sum over parameters of size * variance. With sigma = 0 the
    copy is exact, and trained on the same batches it stays so bit for bit: any other twin is read against that one.
    Networks that draw random numbers (dropout) need the same random state before both forward passes.

    Args:
        model: the network; compile and data-parallel wrappers are left off the copy.
        optimizer: the optimizer, or all of them, that train it. A scheduler is not copied: build another one for the
            copy and load the state of the first.
        sigma: length of the perturbation, relative to s0.
        direction: "gaussian" draws every entry with the standard deviation its parameter had at initialisation, so
            constants (zero biases, weights of norms) stay; or {parameter name: tensor}, for example the gradients of a
            batch, whose length does not matter. Parameters that are not named stay.
        initial: parameter name -> value at initialisation; left out, the present ones, which is right before the first
            step.
        seed: of the direction; torch's random streams are never touched.

    Returns:
        The copy and its optimizer (a list of them where several were given).

    Raises:
        BadInput: model and optimizer do not belong together, the direction has no length, or sigma is so small that
            no weight changes.
        BadSetting: sigma is negative or not finite, or the direction has no such name.
        UnknownName: a direction for a parameter that is not trained.

    Source: Altintas et al. (2025), arXiv:2506.13234, and their code, which has the standard deviations from the formula
    of the initialisation, and gives constants that of the next layer unless they are left out by name.

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
    for own, other in zip(inner.parameters(), clone.parameters(), strict=True):
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
    """The optimizer over the copied parameters. Hooks, and methods that schedulers wrap, belong to the original."""
    clone = copy.deepcopy(optimizer, memo)
    for name, value in vars(optimizer).items():
        if name not in vars(clone) and not callable(value):  # torch's own copy forgets what a subclass added
            setattr(clone, name, copy.deepcopy(value, memo))
    return clone


@torch.no_grad()
def _move(model: nn.Module, step: Mapping[str, Tensor]) -> None:
    parameters, moved = dict(model.named_parameters()), not step
    for name, part in step.items():
        before = parameters[name].clone()
        parameters[name].add_(part.to(before))
        moved |= not torch.equal(before, parameters[name])
    if not moved:
        raise BadInput("sigma is so small that no weight changes: it is lost in rounding")


class Beside:
    """The twin of a network, read when both have taken as many steps.

    Args:
        network: the network.
        given: the module the user named.

    Raises:
        BadInput: not a module, another architecture, or the network itself.
    """

    def __init__(self, network: Network, given: Any) -> None:
        if not isinstance(given, nn.Module):
            raise BadInput(f"twin: expected a torch.nn.Module, got {type(given).__name__}")
        other = unwrap(given)[0]
        if (why := _no_copy(other, network.model)) is not None:
            raise BadInput(f"twin: {type(other).__name__} is no copy of {type(network.model).__name__}: {why}")
        self._network, self._other = network, other
        self.begin()

    def begin(self) -> None:
        """Both are taken to have come equally far now."""
        self._base = self._network.step
        self._taken: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()

    def note(self, optimizer: Optimizer) -> None:
        """Take in that an optimizer which is not the network's stepped."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not found_overflow(optimizer) and any(id(p) in held for p in self._other.parameters()):
            self._taken[optimizer] = self._taken.get(optimizer, 0) + 1

    def why_not(self) -> str:
        """Why the two cannot be compared now, or ""."""
        if (why := _no_copy(self._other, self._network.model)) is not None:
            return f"the twin is no copy of the network any more: {why}"
        ahead = max(self._taken.values(), default=0) - (self._network.step - self._base)
        if ahead == -1:
            return "the twin was one step behind: in every round let it take its step before the network"
        return f"the twin was {abs(ahead)} steps {'ahead' if ahead > 0 else 'behind'}" if ahead else ""

    def __call__(self, probe: Probe | None) -> Twin:
        """Both networks as they are now."""
        own, its = _tensors(self._network.model), _tensors(self._other)
        along: Callable[[Tensor], Tensor] | None = None
        if probe is not None:
            loss = probe.loss
            along = lambda share: loss(mixed(own, its, share))  # noqa: E731
        names = self._network.trained()
        return Twin({n: own[n] for n in names}, {n: its[n] for n in names}, along)


def _no_copy(other: nn.Module, model: nn.Module) -> str | None:
    """Why two networks cannot be held against each other, or None."""
    if (why := misfit(other, model, {id(t) for t in (*model.parameters(), *model.buffers())})) is not None:
        return why
    own, its = _tensors(model), _tensors(other)
    if len(own) != len(its):
        return f"it has {len(its)} parameters and buffers, not {len(own)}"
    for name, tensor in own.items():
        if (its[name].dtype, its[name].device) != (tensor.dtype, tensor.device):
            return f"its {name!r} is {its[name].dtype} on {its[name].device}, not {tensor.dtype} on {tensor.device}"
    return None


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach() for n, t in (*model.named_parameters(), *model.named_buffers())}
