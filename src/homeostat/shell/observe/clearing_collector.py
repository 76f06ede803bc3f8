"""Whether gradients are cleared between optimizer steps, and only there."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median

from torch import Tensor

from homeostat.diagnosis.loss_facts import ClearingFacts
from homeostat.shell.hooks.step_hooks import STEP_HOOKS
from homeostat.shell.hooks.torch_internals import is_plain
from homeostat.shell.network import Network

MOST_PASSES = 64
"""Backward passes of a step whose gradients are looked at."""
KEPT = 160
"""Number of stored counts."""


class ClearingCollector:
    """Looks at gradients before backward passes.

    Only for one network with one optimizer: with several, a loss leaves gradients in networks that it only passes
    through, and their optimizers clear them later.

    Args:
        networks: those that are followed, a live list.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks
        self._checks = self._uncleared = self._passes = 0
        self._step = 0
        self._lost: deque[int] = deque(maxlen=KEPT)

    def follows(self, step: int) -> bool:
        """Whether a further backward pass of this step is looked at."""
        return step == self._step

    def first_pass(self, step: int) -> None:
        """Before the first backward pass of a step."""
        if (network := self._network()) is None:
            return
        if not STEP_HOOKS.stepping:  # a closure clears the gradients of each of its evaluations
            self._step, self._passes = step, 0
            self._lost.append(0)
        if network.step:
            grad = next((p.grad for p in network.trained().values() if p.grad is not None), None)
            self._checks += 1
            self._uncleared += grad is not None and _used(grad)

    def later_pass(self) -> None:
        """Before another backward pass of this step: are the gradients of the pass before it gone?"""
        network = self._network()
        self._passes += 1
        grads = [] if network is None else [p.grad for p in network.trained().values() if p.grad is not None]
        kept = network is None or any(_used(grad) for grad in grads[-2:])
        self._lost[-1] += not kept
        if kept or self._passes >= MOST_PASSES:
            self._step = 0

    def facts(self) -> ClearingFacts:
        """The facts so far."""
        return ClearingFacts(self._checks, self._uncleared, median(self._lost) if self._lost else 0.0)

    def _network(self) -> Network | None:
        network = self._networks[0] if len(self._networks) == 1 else None
        return None if network is None or network.stepped or len(network.optimizers) > 1 else network


def _used(grad: Tensor) -> bool:
    """Whether there is something in a gradient."""
    return is_plain(grad) and bool(grad.detach().any())
