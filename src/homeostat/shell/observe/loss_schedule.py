"""Which losses of a run are read."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from homeostat.shell.hooks.graph_values import below
from homeostat.shell.network import Network
from homeostat.shell.observe.cadence import next_loss_reading

DEPTH = 3
"""Operations from a loss by which it is told from the losses of other networks."""
MOST_KINDS = 8
"""Largest number of kinds of losses that have a schedule of their own; the others share one."""

Kind = tuple[str, ...]


class LossSchedule:
    """Plans by the steps of the run if one network is followed, and else by the backward passes of each kind of loss.

    Networks may be trained in turn, or join the run late: their losses would be missed at steps that another network
    counts. A kind of loss is the names of its last operations.

    Args:
        networks: those that are followed, a live list.

    Attributes:
        next: the step whose loss is read next, where one network is followed.
        kind: of the last loss that was to be read.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks
        self.next, self.kind = 1, Kind()
        self._passes, self._plans = dict[Kind, int](), dict[Kind, int]()
        self._found = False

    def due(self, step: int, loss: Tensor) -> bool:
        """Whether this loss is to be read, before the backward pass of a step (first: 1)."""
        if len(self._networks) < 2:
            self.kind, self._found = (), step >= self.next
            return self._found
        kind = () if loss.grad_fn is None else tuple(node.name() for node in below(loss.grad_fn, DEPTH))
        self.kind = kind if kind in self._passes or len(self._passes) < MOST_KINDS else ()
        passes = self._passes[self.kind] = self._passes.get(self.kind, 0) + 1
        self._found = passes >= self._plans.get(self.kind, 1)
        return self._found

    def take(self, step: int) -> bool:
        """Whether the loss that `due` was asked about is to be read; the next reading is then planned."""
        if self._found:
            self.next = next_loss_reading(step)
            self._plans[self.kind] = next_loss_reading(self._passes.get(self.kind, 0))
        return self._found
