"""The loss of the script's own evaluations, one value a pass, from calls of loss modules without gradients."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from homeostat.core.vital import NETWORK
from homeostat.diagnosis.loss_series import EVALUATION
from homeostat.shell.hooks.module_hooks import MODULE_HOOKS, Handle
from homeostat.shell.hooks.torch_internals import LOSS_MODULE, is_plain, recorded_elsewhere, unseen
from homeostat.shell.network import Network
from homeostat.shell.observe.activation_hooks import Guarding
from homeostat.shell.observe.observer import Row

MOST = 16
"""Largest number of loss modules that are followed."""


class EvaluationCollector:
    """Hooks live loss modules (`nn.CrossEntropyLoss()`, ...) and adds up what they return in evaluations.

    A call belongs to an evaluation if gradients are off, and every network is in evaluation mode or `run.evaluation()`
    is open. The calls between two optimizer steps are one pass; its value is the mean over the items (of several
    modules, the sum of their means). Numbers stay on their device until `rows`.

    Functional losses are not seen: replacing a function of torch would be visible to the script.

    Args:
        networks: those that are followed, a live list.
        guard: wraps what is done inside the user's passes.
        steps: returns the completed steps of the run.
    """

    def __init__(self, networks: Sequence[Network], guard: Guarding, steps: Callable[[], int]) -> None:
        self._networks, self._guard, self._steps = networks, guard, steps
        self._followed = weakref.WeakSet[nn.Module]()
        self._handles = list[Handle]()
        self._at, self._sums = -1, dict[int, tuple[Tensor, int]]()
        self._closed = list[tuple[int, list[tuple[Tensor, int]]]]()
        self._opened = 0

    def follow(self, modules: Iterable[object]) -> None:
        """Hook the loss modules among these."""
        for module in modules:
            if not issubclass(type(module), LOSS_MODULE) or not isinstance(module, nn.Module):
                continue
            if module not in self._followed and len(self._handles) < MOST:
                self._followed.add(module)
                self._handles.append(MODULE_HOOKS.place(module, "output", self._hear))

    @contextlib.contextmanager
    def during(self, inside: AbstractContextManager[None]) -> Iterator[None]:
        """An evaluation that the script has opened, whatever the mode of its networks."""
        self._opened += 1
        try:
            with inside:
                yield
        finally:
            self._opened -= 1

    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if torch.is_grad_enabled() or recorded_elsewhere() or not isinstance(output, Tensor):
            return
        with self._guard("the loss of evaluations"), unseen():
            modes = [network.model.training for network in self._networks if network.alive]
            if (self._opened or (modes and not any(modes))) and is_plain(output) and output.is_floating_point():
                self._add(module, args, output.detach())

    def _add(self, module: nn.Module, args: tuple[Any, ...], loss: Tensor) -> None:
        if (step := self._steps()) != self._at:
            self._close()
            self._at = step
        items = len(args[0]) if args and isinstance(args[0], Tensor) and args[0].ndim else 1
        summed = loss.ndim == 0 and getattr(module, "reduction", "mean") == "sum"
        value = loss.double() if loss.device.type != "mps" else loss.float()
        added = value if summed else value.mean() * items
        total, count = self._sums.get(id(module), (None, 0))
        self._sums[id(module)] = (added if total is None else total + added.to(total.device), count + items)

    def _close(self) -> None:
        if self._sums:
            self._closed.append((self._at, list(self._sums.values())))
        self._sums = {}

    def rows(self, ended: bool = False) -> list[Row]:
        """(step, name, network, value) of the passes that are over."""
        if ended or self._at < self._steps():
            self._close()
        closed, self._closed = self._closed, []
        sums = [total / max(count, 1) for _, parts in closed for total, count in parts]
        values = iter(torch.stack([s.to(sums[0].device) for s in sums]).tolist() if sums else [])
        return [(step, EVALUATION, NETWORK, sum(next(values) for _ in parts)) for step, parts in closed]

    def end(self) -> list[Row]:
        """Remove the hooks, and return what is left."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        return self.rows(ended=True)
