"""Averaged copies of a network (EMA, SWA, target networks): which tensor of the copy belongs to which of the network.

Only copies that the user names are edited. A deep copy has no link to its original, so an unnamed copy cannot be told
from a network that must stay as it is (a target, a frozen reference, the best checkpoint so far).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from homeostat.core.errors import BadInput
from homeostat.core.signals import pass_on
from homeostat.shell.hooks.module_tree import buffers_in, named_buffers_in, named_parameters_in, parameters_in
from homeostat.shell.hooks.torch_internals import children_of, owner_table
from homeostat.shell.hooks.wrappers import unwrap


class Averaged:
    """A copy that follows the network, or the part of it at `path`. Does not keep the copy alive.

    Args:
        copy: the module with the network's own names for everything.
        path: of the part of the network that is copied; "" is all of it.
    """

    def __init__(self, copy: nn.Module, path: str = "") -> None:
        self._copy, self.path = weakref.ref(copy), path

    @property
    def copy(self) -> nn.Module | None:
        """The copy, or None once it was deleted."""
        return self._copy()

    def inside(self, name: str) -> str | None:
        """The name in the copy of a tensor or module of the network; None if the copy lacks it."""
        if not self.path or name == self.path:
            return "" if name == self.path else name
        return name.removeprefix(self.path + ".") if name.startswith(self.path + ".") else None

    def counterpart(self, name: str) -> Tensor | None:
        """The copy's tensor for a parameter or buffer of the network; None if there is none."""
        inner, copy = self.inside(name), self.copy
        return tensor_named(copy, inner) if inner and copy is not None else None


def tensor_named(model: nn.Module, name: str) -> Tensor | None:
    """A parameter or buffer by its full name, or None; names that `getattr` cannot read are found too."""
    path, _, leaf = name.rpartition(".")
    module: nn.Module | None = model
    for part in path.split(".") if path else ():
        module = children_of(module).get(part) if module is not None else None
    return owner_table(module, leaf).get(leaf) if module is not None else None


def averaged_copies(given: Any, model: nn.Module) -> tuple[Averaged, ...]:
    """The user's averaged copies of `model`.

    Args:
        given: a module, several, or {path of a part of the model: module}. A module may be an
            `torch.optim.swa_utils.AveragedModel`, a plain copy, or a wrapper that holds the copy as a child.

    Raises:
        BadInput: not a module, not a copy (names or shapes differ), or the network itself.
    """
    if isinstance(given, Mapping):
        named = list(given.items())
    else:
        several: Iterable[Any] = [given] if isinstance(given, nn.Module) or not isinstance(given, Iterable) else given
        named = [("", each) for each in several]
    copies = tuple(_copy_of(path, copy, model) for path, copy in named)
    if len({id(each.copy) for each in copies}) < len(copies):
        raise BadInput("averaged: one copy is named twice")
    return copies


def _copy_of(path: str, given: Any, model: nn.Module) -> Averaged:
    if not isinstance(given, nn.Module):
        why = "name the module that holds the averaged weights"
        raise BadInput(f"averaged: expected a torch.nn.Module, got {type(given).__name__}; {why}")
    try:
        part = model.get_submodule(path)
    except AttributeError as error:
        pass_on(error)
        raise BadInput(f"averaged: the network has no part {path!r}") from None
    original = {id(t) for t in (*parameters_in(model), *buffers_in(model))}
    if part is not model:  # a target network may be a part of the same model: only the copied part must be separate
        original = {id(t) for t in (*parameters_in(part), *buffers_in(part))}
    parts = [given, *children_of(given).values()]
    candidates = [unwrap(each)[0] for each in parts if each is not None]
    reasons = [misfit(each, part, original) for each in candidates]
    if reasons[0] is None or reasons.count(None) == 1:
        return Averaged(candidates[reasons.index(None)], path)
    if None in reasons:
        raise BadInput(f"averaged: {type(given).__name__} holds several copies: name each of them")
    nearest = next((why for each, why in zip(candidates, reasons, strict=True) if type(each) is type(part)), reasons[0])
    raise BadInput(f"averaged: {type(given).__name__} is no copy of {type(part).__name__}: {nearest}")


def misfit(copy: nn.Module, part: nn.Module, original: set[int]) -> str | None:
    """Why a module is not a copy of a part of the network, or None if it is."""
    named = (*named_parameters_in(part, remove_duplicate=False), *named_buffers_in(part, remove_duplicate=False))
    for name, tensor in named:
        found = tensor_named(copy, name)
        if found is None:
            return f"it has no {name!r}"
        if id(found) in original:
            return f"its {name!r} is the network's own"
        if found.shape != tensor.shape:
            return f"its {name!r} has shape {list(found.shape)}, not {list(tensor.shape)}"
    return None
