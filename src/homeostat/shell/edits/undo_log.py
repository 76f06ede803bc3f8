"""Undo changes of tensors and objects."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class UndoLog:
    """The inverse of every change made so far."""

    def __init__(self, undoable: bool = True) -> None:
        self.undoable = undoable
        self._inverses: list[Callable[[], object]] = []
        self._saved: set[int] = set()

    def push(self, inverse: Callable[[], object]) -> None:
        """Add the inverse of the change just made."""
        self._inverses.append(inverse)

    def save(self, tensor: Tensor, additive: bool = False) -> None:
        """Copy a tensor before it changes. Before an addition, only if additions can be undone."""
        if (self.undoable or not additive) and id(tensor) not in self._saved:
            self._saved.add(id(tensor))  # the first copy is restored last; its inverse keeps the tensor alive
            old = tensor.detach().clone(memory_format=torch.preserve_format)
            self.push(lambda: tensor.detach().copy_(old))

    def undo(self) -> None:
        """Undo everything, the last change first. A second call does nothing.

        Additions applied with `undoable=False` stay.
        """
        with torch.no_grad():
            while self._inverses:
                self._inverses.pop()()
