"""Look inside wrappers of a network (torch.compile, data parallelism), and find live ones."""

from __future__ import annotations

import gc
from typing import Any

from torch import nn

from homeostat.shell.hooks.torch_internals import WRAPPED, compiled_call, is_built


def unwrap(model: nn.Module) -> tuple[nn.Module, bool]:
    """The module inside torch.compile and data-parallel wrappers, and whether it is compiled."""
    compiled = False
    while (inner := WRAPPED.get(type(model).__name__)) and isinstance(getattr(model, inner, None), nn.Module):
        compiled |= type(model).__name__ == "OptimizedModule"
        model = getattr(model, inner)
    return model, compiled or compiled_call(model) is not None


def live(*kinds: type[Any]) -> list[Any]:
    """Every live module or optimizer of these classes, by a search through the garbage collector's objects."""
    # type() rather than isinstance(), because reading `__class__` of a foreign object can run its code
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kinds) and is_built(thing)]


def wrappers_of(model: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    """The live wrappers of a class around a network, at any depth."""
    return [wrapper for wrapper in live(kind) if unwrap(wrapper)[0] is model]
