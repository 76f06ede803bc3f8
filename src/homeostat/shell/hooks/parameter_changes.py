"""Detects changes of parameters by any means: an optimizer, an assignment to `p.data`, an average of others."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from homeostat.shell.hooks.graph_values import walk
from homeostat.shell.hooks.torch_internals import version_of

BY_HAND = "updates are not made by torch.optim"
_SAMPLE = 64


class ParameterChanges:
    """Detects changes of tensors since they were first seen. Keeps no tensor alive.

    An in-place change increases the version of a tensor, except through `.data`. So the first 64 values are compared
    too, unless the tensor is distributed over processes.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[weakref.ref[Tensor], int, Tensor | None]] = {}

    def knows(self, tensor: Tensor) -> bool:
        """Whether the tensor has been seen before."""
        entry = self._seen.get(id(tensor))
        return entry is not None and entry[0]() is tensor

    def changed(self, tensor: Tensor) -> bool:
        """Whether the tensor has changed since it was first seen; False at the first time."""
        if not self.knows(tensor):
            self._seen[id(tensor)] = weakref.ref(tensor), version_of(tensor), _sample(tensor)
            return False
        _, version, before = self._seen[id(tensor)]
        if version_of(tensor) != version:
            return True
        after = _sample(tensor)
        return before is not None and after is not None and not torch.equal(before, after.to(before.device))

    def any_changed(self) -> bool:
        """Whether one of the existing tensors has changed."""
        return any(self.changed(tensor) for entry in list(self._seen.values()) if (tensor := entry[0]()) is not None)


class HandUpdates:
    """Detects whether a script updates its weights without torch.optim.

    Its losses then depend on the same tensors, which change, or on new tensors every time.
    """

    def __init__(self) -> None:
        self._changes = ParameterChanges()
        self._made, self._count, self._next = False, 0, 1

    def see(self, loss: Tensor) -> None:
        """Called before the backward pass of a loss; checks the first few losses, then those at powers of two."""
        self._count += 1
        if self._made or self._count < self._next:
            return
        self._next = 2 * self._count
        found = list(leaves(loss))
        known = [leaf for leaf in found if self._changes.knows(leaf)]
        self._made = any([self._changes.changed(leaf) for leaf in found]) or (self._count > 1 and not known)

    def made(self) -> bool:
        """Whether such updates were detected."""
        self._made = self._made or self._changes.any_changed()
        return self._made


def leaves(loss: Tensor) -> Iterator[Tensor]:
    """The tensors that get gradients from a loss."""
    return (leaf for node, _ in walk(loss.grad_fn) if isinstance(leaf := getattr(node, "variable", None), Tensor))


def _sample(tensor: Tensor) -> Tensor | None:
    whole = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    # FSDP frees the storage of gathered parameters
    kept = whole and bool(tensor.untyped_storage().nbytes())
    return tensor.detach().reshape(-1)[:_SAMPLE].clone() if kept else None
