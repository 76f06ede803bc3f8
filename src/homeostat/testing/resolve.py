"""Find components by registered name, in a module, or in a file that need not be installed."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from homeostat.core.component import Component, build, components, kinds
from homeostat.core.errors import BadInput, UnknownName


def found(target: str) -> list[Component | type[Component]]:
    """The components named by a text.

    Args:
        target: a registered name, with settings if any ("redo", "redo:threshold=0.1"), a kind ("vital"), a module
            ("package.module"), a file ("folder/file.py"), or one thing in either ("package.module:Name",
            "folder/file.py:Name").

    Raises:
        UnknownName: there is no such component; the nearest names are suggested.
        BadInput: the module cannot be imported, has no component, or the named object is not a component.
    """
    place, colon, name = target.rpartition(":") if ":" in target else (target, "", "")
    if colon and not _is_file(place) and (registered := _registered(place)):
        return [build(cls.kind, target) for cls in registered]
    if not colon and not _is_file(target):
        registered = _registered(target)
        if registered or not _is_module(target):
            return [*(registered or _unknown(target))]
    module = _module(place)
    return [_named(module, name, place)] if colon else [*_defined(module, place)]


def loaded(module: str, name: str, file: str) -> type[Any]:
    """A class by its module name, or from its file if the module cannot be imported."""
    try:
        owner: Any = importlib.import_module(module)
    except ImportError:
        owner = _from_file(Path(file), module)
    for part in name.split("."):
        owner = getattr(owner, part)
    return owner


def _registered(target: str) -> list[type[Component]]:
    if target in kinds():
        return list(components(target).values())
    return [cls for kind in kinds() for name, cls in components(kind).items() if target == name]


def _unknown(target: str) -> list[type[Component]]:
    known = {*kinds(), *(name for kind in kinds() for name in components(kind))}
    raise UnknownName("component", target, known)


def _is_file(place: str) -> bool:
    return place.endswith(".py") or os.sep in place


def _is_module(place: str) -> bool:
    with _this_folder():
        try:
            return importlib.util.find_spec(place) is not None
        except (ImportError, ValueError):
            return "." in place


def _module(place: str) -> ModuleType:
    """Import a module by name, also from the working directory, or from a file. Its errors become one message."""
    if _is_file(place) and not Path(place).is_file():
        raise BadInput(f"there is no file {place!r}")
    with _this_folder():
        try:
            return _from_file(Path(place)) if _is_file(place) else importlib.import_module(place)
        except ModuleNotFoundError as error:
            missing = error.name or place
            raise BadInput(
                f"cannot import {place!r}: no module named {missing!r}; is it installed, or in this folder?"
            ) from None
        except SystemExit as error:
            raise BadInput(f"cannot import {place!r}: it ends the program when imported ({error})") from None
        except Exception as error:
            raise BadInput(f"cannot import {place!r}: {type(error).__name__}: {_where(error)}") from None


def _where(error: Exception) -> str:
    """The error's message in one line, and the line of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    located = frames and not isinstance(error, SyntaxError) and not frames[-1].filename.startswith("<")
    line = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if located else ""
    return " ".join(str(error).split()) + line


def _from_file(path: Path, name: str = "") -> ModuleType:
    """Import a module from a file and register it in `sys.modules`, so that pickle finds its classes."""
    unique = name or f"{path.stem}_{hashlib.blake2b(str(path.resolve()).encode(), digest_size=4).hexdigest()}"
    spec = importlib.util.spec_from_file_location(unique, path)
    if spec is None or spec.loader is None:
        raise BadInput(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(unique, None)
        raise
    return module


def _named(module: ModuleType, name: str, place: str) -> type[Component]:
    here = {key: value for key, value in vars(module).items() if _concrete(value)}
    if not hasattr(module, name):
        raise UnknownName(f"name in {place}", name, here or vars(module))
    value = getattr(module, name)
    if not (isinstance(value, type) and issubclass(value, Component)):
        more = f"; components in it: {', '.join(sorted(here))}" if here else ""
        raise BadInput(f"{name} in {place} is of type {type(value).__name__}, not a component class{more}")
    if not _concrete(value):
        raise BadInput(f"{name} in {place} is a contract, not a component: subclass it")
    return value


def _defined(module: ModuleType, place: str) -> list[type[Component]]:
    """The components defined in a module, in order."""
    ours = [value for value in vars(module).values() if _concrete(value) and value.__module__ == module.__name__]
    if not ours:
        raise BadInput(f"{place!r} defines no component (a subclass of Vital, Treatment, Controller, ...)")
    return list(dict.fromkeys(ours))


def _concrete(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Component) and bool(value.kind) and bool(value.name)


@contextlib.contextmanager
def _this_folder() -> Iterator[None]:
    """Put the working directory on `sys.path`, as `python -m` does."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)
