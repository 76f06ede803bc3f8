"""Evaluation items of tasks, and the tasks so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from homeostat.core.errors import BadInput
from homeostat.core.random import Draw
from homeostat.core.signals import pass_on
from homeostat.core.snapshot import Probe
from homeostat.core.vital import NETWORK
from homeostat.shell.network import Network
from homeostat.shell.observe.probe import LossFunction, Mirror, check_batch, check_runs

HOW = "tasks must be (sets, loss_fn) with sets = {name: (inputs, targets), ...} in the order of the tasks"


class TaskProbes:
    """The evaluation items of a network's tasks. A task is the part of a run between two boundaries; the first is 0.

    Items are evaluated on a copy of the network in evaluation mode, like a probe.

    Args:
        network: the network.
        given: (sets, loss_fn): name -> (inputs, targets) of the known tasks, in order, possibly none;
            loss_fn(outputs, targets) -> 0-dim loss.
        seed: seed of the probes' random draws.
        task: number of the current task.

    Raises:
        BadInput: an item does not fit the network or the loss.
    """

    def __init__(self, network: Network, given: Any, seed: int, task: Callable[[], int]) -> None:
        sets, self._loss = _unpack(given)
        self._task, self._draw, self._mirror = task, Draw(seed, ("tasks", network.label)), Mirror(network)
        self._model = type(network.model).__name__
        self._sets: dict[int, tuple[str, tuple[Tensor, Tensor]]] = {}
        for number, (name, batch) in enumerate(sets.items()):
            self._sets[number] = self._checked(name, batch)

    def check_next(self, name: str, batch: Any) -> tuple[str, tuple[Tensor, Tensor]]:
        """Check the items of the task that begins next. Returns the argument of `add`.

        Raises:
            BadInput: they do not fit, or the task or its name already has items.
        """
        if (taken := self._sets.get(self._task() + 1)) is not None:
            raise BadInput(f"the task that begins now has evaluation items already, given as {taken[0]!r}")
        return self._checked(name, batch)

    def add(self, checked: tuple[str, tuple[Tensor, Tensor]]) -> None:
        """Add the items of the current task."""
        self._sets[self._task()] = checked

    def __call__(self) -> tuple[dict[str, Probe], str]:
        """Task -> probe of the tasks so far, at the current parameters; and the name of the current task."""
        task = self._task()
        met = dict(self._sets[number] for number in sorted(self._sets) if number <= task)
        present = self._sets[task][0] if task in self._sets else ""
        return self._mirror.probes(met, self._loss, self._draw), present

    def _checked(self, name: Any, batch: Any) -> tuple[str, tuple[Tensor, Tensor]]:
        if not isinstance(name, str) or not name or name == NETWORK:
            raise BadInput(f"evaluation items belong to a task with a name of its own, got {name!r}")
        if name in (names := [taken for taken, _ in self._sets.values()]):
            raise BadInput(f"there are evaluation items of a task {name!r} already; so far: {', '.join(names)}")
        what = f"the evaluation set of task {name!r}"
        try:
            inputs, targets = batch
        except (TypeError, ValueError) as error:
            pass_on(error)
            raise BadInput(f"{what} must be (inputs, targets)") from None
        inputs = check_batch(inputs, what)
        if not isinstance(targets, Tensor) or targets.ndim == 0 or len(targets) != len(inputs):
            raise BadInput(f"{what} must have one target for each of its {len(inputs)} inputs")
        check_runs(self._mirror.probe((inputs, targets), self._loss, self._draw), what, self._model)
        return name, (inputs, targets)


def _unpack(given: Any) -> tuple[Mapping[str, Any], LossFunction]:
    try:
        sets, loss = given
    except (TypeError, ValueError) as error:
        pass_on(error)
        raise BadInput(HOW) from None
    if not isinstance(sets, Mapping) or not callable(loss):
        raise BadInput(HOW)
    return sets, loss
