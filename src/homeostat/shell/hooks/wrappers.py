"""Look inside wrappers of a network (torch.compile, data parallelism), and find live ones."""

from __future__ import annotations

import gc
import inspect
import itertools
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from types import FrameType, ModuleType
from typing import Any

from torch import nn

from homeostat.shell.hooks.torch_internals import WRAPPED, compiled_call, is_built

MOST_REACHED = 200_000
"""Objects that are looked at where the garbage collector does not list all."""
FEW_CLASSES = 16
"""Up to so many classes, asking for what refers to them is faster than looking at every object."""


def unwrap(model: nn.Module) -> tuple[nn.Module, bool]:
    """The module inside torch.compile and data-parallel wrappers, and whether it is compiled."""
    compiled = False
    while (inner := WRAPPED.get(type(model).__name__)) and isinstance(getattr(model, inner, None), nn.Module):
        compiled |= type(model).__name__ == "OptimizedModule"
        model = getattr(model, inner)
    return model, compiled or compiled_call(model) is not None


def live(*kinds: type[Any], subclasses: bool = True) -> list[Any]:
    """Every live module or optimizer of these classes, by a search through the garbage collector's objects.

    What is garbage but not yet collected is found too.

    Args:
        kinds: the classes.
        subclasses: whether instances of their subclasses count.
    """
    classes = _with_subclasses(kinds) if subclasses else {id(kind): kind for kind in kinds}
    few = len(classes) <= FEW_CLASSES  # an instance refers to its class
    found = _of_classes(gc.get_referrers(*classes.values()) if few else gc.get_objects(), classes)
    if gc.get_freeze_count():  # objects that were frozen are not listed
        known = set(map(id, found))
        found += [thing for thing in _of_classes(_reachable(), classes) if id(thing) not in known]
    return [thing for thing in found if is_built(thing)]


def _with_subclasses(kinds: Iterable[type[Any]]) -> dict[int, type[Any]]:
    """The classes and those below them, by their ids."""
    classes, todo = dict[int, type[Any]](), list(kinds)
    while todo:
        kind = todo.pop()
        if id(kind) not in classes:
            classes[id(kind)] = kind
            todo += type.__subclasses__(kind)
    return classes


def _of_classes(things: Iterable[Any], classes: Mapping[int, type[Any]]) -> list[Any]:
    """Those that are instances. Compares ids of classes: a comparison of foreign objects or classes can run code."""
    things = list(things)
    return list(itertools.compress(things, map(classes.__contains__, map(id, map(type, things)))))


def _reachable() -> Iterable[Any]:
    """The objects nearest to the frames of this thread and to the main script, at most `MOST_REACHED`."""
    todo = deque[Any]([getattr(sys.modules.get("__main__"), "__dict__", None)])
    frame = inspect.currentframe()
    while (frame := frame.f_back if frame else None) is not None:
        todo.append(_variables(frame))  # a running frame has no referents
    seen = dict[int, Any]()
    while todo and len(seen) < MOST_REACHED:
        thing = todo.popleft()
        if id(thing) not in seen and not issubclass(type(thing), (type, ModuleType, str, bytes)):
            seen[id(thing)] = thing
            todo.extend(gc.get_referents(thing))
    return seen.values()


def _variables(frame: FrameType) -> list[Any]:
    """The values of the variables of a function or module that runs, without keeping them alive."""
    names = frame.f_locals
    values = list(names.values())
    # Until Python 3.12 a frame keeps this dict, which would keep what the script deletes; `names`, the frame and the
    # argument of getrefcount hold it, and nobody else does if the script did not ask for `locals()`
    if type(names) is dict and names is not frame.f_globals and sys.getrefcount(names) <= 3:
        names.clear()
    return values


def wrappers_of(model: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    """The live wrappers of a class around a network, at any depth."""
    return [wrapper for wrapper in live(kind) if unwrap(wrapper)[0] is model]
