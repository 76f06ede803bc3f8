"""The tasks of the current batch, for modules that a treatment inserted, and the losses that such modules add."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(eq=False)
class Composition:
    """The tasks of the current batch: one object per network.

    `run.batch` gives the network's object to every module with an attribute `composition` of this class, and fills it.
    `run.loss` takes the added losses. The end of the optimizer step empties it. A copied module (a target network, an
    average, an unpickled module) has an empty object that is never filled.

    Attributes:
        tasks: [N], integers: the task of each item, 0 before the first boundary. None: all items belong to the current
            task, or the tasks are unknown.
        count: number of tasks so far, including the current one.
        added: 0-dim losses of the forward passes since `run.batch`, to be added to the user's loss.
    """

    tasks: Tensor | None = None
    count: int = 1
    added: list[Tensor] = field(default_factory=list[Tensor])

    def begin(self, tasks: Tensor | None, count: int) -> None:
        """Begin a new batch."""
        self.tasks, self.count = tasks, count
        self.added.clear()

    def give(self, model: nn.Module) -> None:
        """Give this object to every module with an attribute `composition`."""
        for module in model.modules():
            if isinstance(getattr(module, "composition", None), Composition):
                module.composition = self  # type: ignore[assignment]

    def of(self, items: int) -> Tensor | None:
        """The tasks of a batch with the given number of items; None if they are unknown or their number differs."""
        return self.tasks if self.tasks is not None and len(self.tasks) == items else None

    def take(self) -> list[Tensor]:
        """Return the added losses, and forget them."""
        taken, self.added[:] = list(self.added), []
        return taken

    def clear(self) -> None:
        """End the batch."""
        self.begin(None, self.count)

    def __deepcopy__(self, memo: object) -> Composition:
        return Composition()

    def __copy__(self) -> Composition:
        return Composition()

    def __reduce__(self) -> tuple[type[Composition], tuple[()]]:
        return Composition, ()
