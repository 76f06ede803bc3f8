"""What the modules that surgery put into a network may know of the batch being learned from, and add to its loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(eq=False)
class Composition:
    """Of which tasks the present batch is made: one object for each network.

    A module with an attribute `composition` of this class is given the network's own by `run.batch`, which fills it;
    `run.loss` takes what was added, and the end of the optimizer step empties it. A copy of a module (a target
    network, an average, what was unpickled) holds an empty one that nobody fills.

    Attributes:
        tasks: [N], whole numbers: the task that each item comes from, 0 for what came before the first boundary. None:
            all of the present task, or not known.
        count: tasks met so far, the present one included.
        added: 0-dim losses of the forward passes since the batch was told, to be added to the user's.
    """

    tasks: Tensor | None = None
    count: int = 1
    added: list[Tensor] = field(default_factory=list)

    def tell(self, tasks: Tensor | None, count: int) -> None:
        """A new batch begins."""
        self.tasks, self.count = tasks, count
        self.added.clear()

    def give(self, model: nn.Module) -> None:
        """Let every module that asks hold this one."""
        for module in model.modules():
            if isinstance(getattr(module, "composition", None), Composition):
                module.composition = self  # type: ignore[assignment]

    def of(self, items: int) -> Tensor | None:
        """The tasks of a batch of so many items; None where they are not known or do not fit."""
        return self.tasks if self.tasks is not None and len(self.tasks) == items else None

    def take(self) -> list[Tensor]:
        """What was added, once."""
        taken, self.added[:] = list(self.added), []
        return taken

    def clear(self) -> None:
        """The batch is over."""
        self.tell(None, self.count)

    def __deepcopy__(self, memo: object) -> Composition:
        return Composition()

    def __copy__(self) -> Composition:
        return Composition()

    def __reduce__(self) -> tuple[type[Composition], tuple[()]]:
        return Composition, ()
