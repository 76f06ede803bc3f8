"""Compares a network with its twin when both have taken the same number of steps."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from homeostat.core.errors import BadInput
from homeostat.core.snapshot import Probe, Twin
from homeostat.shell.edits.averaged_copies import misfit
from homeostat.shell.hooks.backward_hooks import found_overflow
from homeostat.shell.hooks.module_tree import buffers_in, named_buffers_in, named_parameters_in, parameters_in
from homeostat.shell.hooks.wrappers import unwrap
from homeostat.shell.network import Network
from homeostat.vitals.dynamics.twins import mixed


class TwinReader:
    """Reads a network and its twin.

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
        if (why := _mismatch(other, network.model)) is not None:
            raise BadInput(f"twin: {type(other).__name__} is no copy of {type(network.model).__name__}: {why}")
        self._network, self._other = network, other
        self.begin()

    def begin(self) -> None:
        """Count the steps of both from now on."""
        self._base = self._network.step
        self._taken: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()

    def note(self, optimizer: Optimizer) -> None:
        """Count a step of another optimizer."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not found_overflow(optimizer) and any(id(p) in held for p in parameters_in(self._other)):
            self._taken[optimizer] = self._taken.get(optimizer, 0) + 1

    def why_not(self) -> str:
        """Why the two cannot be compared now, or ""."""
        if (why := _mismatch(self._other, self._network.model)) is not None:
            return f"the twin is no copy of the network any more: {why}"
        ahead = max(self._taken.values(), default=0) - (self._network.step - self._base)
        if ahead == -1:
            return "the twin was one step behind: in every round let it take its step before the network"
        return f"the twin was {abs(ahead)} steps {'ahead' if ahead > 0 else 'behind'}" if ahead else ""

    def __call__(self, probe: Probe | None) -> Twin:
        """Both networks in their current state."""
        own, its = _tensors(self._network.model), _tensors(self._other)
        along: Callable[[Tensor], Tensor] | None = None
        if probe is not None:
            loss = probe.loss
            along = lambda share: loss(mixed(own, its, share))  # noqa: E731
        names = self._network.trained()
        return Twin({n: own[n] for n in names}, {n: its[n] for n in names}, along)


def _mismatch(other: nn.Module, model: nn.Module) -> str | None:
    """Why two networks cannot be compared tensor by tensor, or None."""
    if (why := misfit(other, model, {id(t) for t in (*parameters_in(model), *buffers_in(model))})) is not None:
        return why
    own, its = _tensors(model), _tensors(other)
    if len(own) != len(its):
        return f"it has {len(its)} parameters and buffers, not {len(own)}"
    for name, tensor in own.items():
        if (its[name].dtype, its[name].device) != (tensor.dtype, tensor.device):
            return f"its {name!r} is {its[name].dtype} on {its[name].device}, not {tensor.dtype} on {tensor.device}"
    return None


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach() for n, t in (*named_parameters_in(model), *named_buffers_in(model))}
