"""Evaluation items of tasks: which belong to which task, and which tasks have been met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from homeostat.core.draw import Draw
from homeostat.core.errors import BadInput
from homeostat.core.readings import Probe
from homeostat.core.vital import NETWORK
from homeostat.shell.network import Network
from homeostat.shell.probing import LossFunction, Mirror, check_batch, check_runs

HOW = "tasks must be (sets, loss_fn) with sets = {name: (inputs, targets), ...} in the order of the tasks"


class TaskSets:
    """The evaluation items of a network's tasks. A task is what lies between two boundaries; the first has number 0.

    The network is run through a copy, in evaluation mode, as for a probe.

    Args:
        network: the network.
        given: (sets, loss_fn): name -> (inputs, targets) in the order of the tasks, as many as are known, perhaps none;
            loss_fn(outputs, targets) -> 0-dim loss.
        seed: of the probes' randomness.
        task: number of the present task.

    Raises:
        BadInput: an item does not fit the network or the loss; says which and why.
    """

    def __init__(self, network: Network, given: Any, seed: int, task: Callable[[], int]) -> None:
        sets, self._loss = _unpack(given)
        self._task, self._draw, self._mirror = task, Draw(seed, ("tasks", network.label)), Mirror(network)
        self._model = type(network.model).__name__
        self._sets: dict[int, tuple[str, tuple[Tensor, Tensor]]] = {}
        for number, (name, batch) in enumerate(sets.items()):
            self._sets[number] = self._checked(name, batch)

    def check_next(self, name: str, batch: Any) -> tuple[str, tuple[Tensor, Tensor]]:
        """Whether these can be the items of the task that begins next; `add` takes what is returned.

        Raises:
            BadInput: they do not fit, or there are items of that task or of that name already.
        """
        if (taken := self._sets.get(self._task() + 1)) is not None:
            raise BadInput(f"the task that begins now has evaluation items already, given as {taken[0]!r}")
        return self._checked(name, batch)

    def add(self, checked: tuple[str, tuple[Tensor, Tensor]]) -> None:
        """The items of the present task."""
        self._sets[self._task()] = checked

    def __call__(self) -> tuple[dict[str, Probe], str]:
        """Task -> probe of the tasks met so far, at the network's present parameters; and which of them is present."""
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
        except (TypeError, ValueError):
            raise BadInput(f"{what} must be (inputs, targets)") from None
        inputs = check_batch(inputs, what)
        if not isinstance(targets, Tensor) or targets.ndim == 0 or len(targets) != len(inputs):
            raise BadInput(f"{what} must have one target for each of its {len(inputs)} inputs")
        check_runs(self._mirror.probe((inputs, targets), self._loss, self._draw), what, self._model)
        return name, (inputs, targets)


def _unpack(given: Any) -> tuple[Mapping[str, Any], LossFunction]:
    try:
        sets, loss = given
    except (TypeError, ValueError):
        raise BadInput(HOW) from None
    if not isinstance(sets, Mapping) or not callable(loss):
        raise BadInput(HOW)
    return sets, loss
