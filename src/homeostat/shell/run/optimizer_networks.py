"""The networks that each optimizer trains: usually one; two if, for example, the critics of an agent share it."""

from __future__ import annotations

import weakref

from torch.optim import Optimizer

from homeostat.shell.run.network_run import NetworkRun


class OptimizerNetworks:
    """A table from optimizers to networks that keeps no optimizer alive."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Optimizer], tuple[NetworkRun, ...]]] = {}

    def add(self, optimizer: Optimizer, network: NetworkRun) -> None:
        """Add a network to those that an optimizer trains."""
        if network not in (known := self.of(optimizer)):
            self._entries[id(optimizer)] = (weakref.ref(optimizer), (*known, network))

    def of(self, optimizer: Optimizer) -> tuple[NetworkRun, ...]:
        """The networks that an optimizer trains, in the order in which they joined the run."""
        entry = self._entries.get(id(optimizer))
        return entry[1] if entry is not None and entry[0]() is optimizer else ()
