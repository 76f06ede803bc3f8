"""Whether a forward pass of a copy could change anything outside of the copy, read from the code of its functions.

A copy has its own attributes, and `quarantine` restores random streams and discards output. What is left are objects
that the code reaches by other ways: globals, closed-over variables, default arguments, and attributes of classes. Here
these are allowed only if they are known to stay as they are; what is not known counts as impure.
"""

from __future__ import annotations

import argparse
import builtins
import dataclasses
import dis
import enum
import functools
import logging
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from homeostat.core.signals import pass_on
from homeostat.shell.hooks.module_tree import modules_in
from homeostat.shell.hooks.random_streams import generators_of
from homeostat.shell.hooks.torch_internals import hook_tables

LIBRARIES = frozenset(
    {"torch", "numpy", "random", "math", "cmath", "operator", "functools", "itertools", "typing", "weakref", "einops"}
)
"""Packages whose functions are taken to change nothing but random streams, which are restored."""
REFUSED = frozenset({"open", "input", "exec", "eval", "globals", "vars", "setattr", "delattr", "breakpoint"})
"""Builtin functions that may change anything."""
CHANGING = frozenset(
    {"append", "appendleft", "extend", "update", "add", "insert", "setdefault"}
    | {"pop", "popleft", "popitem", "remove", "discard", "clear", "sort", "reverse", "rotate"}
)
"""Methods that change a container."""
COPYING = ("__deepcopy__", "__copy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
"""Methods of the user that a copy would call."""
_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, re.Pattern, enum.Enum, logging.Logger)
_TORCH = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, np.dtype, np.generic)
_STORES = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
_ITEMS = frozenset({"STORE_SUBSCR", "DELETE_SUBSCR"})


def impurity(model: nn.Module) -> str:
    """Why a forward pass of a copy of the network may change something outside of the copy; "" if it cannot.

    Only the code is read: no method, property or getter of the network is called.
    """
    return _Reader(generators_of(model)).of_network(model)


class _Impure(Exception):
    """The message says why."""


class _Reader:
    """Follows functions from the forward pass to everything that they may call."""

    def __init__(self, restored: Iterable[Any]) -> None:
        self._restored = {id(one) for one in restored}
        self._read: set[int] = set()
        self._inner: set[tuple[int, str, bool]] = set()
        self._changed = False
        self._names: set[str] = set()
        self._classes: dict[type, None] = {}
        self._kept: list[Any] = []  # so that no id is used again

    def of_network(self, model: nn.Module) -> str:
        try:
            for module in modules_in(model):
                hooks = {id(table) for table in hook_tables(module)}  # the copy has none
                self._attributes({name: value for name, value in vars(module).items() if id(value) not in hooks})
                self._class(type(module))
                self._method(type(module), "forward")
            self._helpers()
        except _Impure as found:
            pass_on(found)
            return str(found)
        return ""

    def _attributes(self, values: Mapping[str, Any]) -> None:
        """Functions and helpers that an object holds; its other values are its copy's own."""
        for name, value in values.items():
            held = value.values() if isinstance(value, dict) else value
            for one in held if isinstance(held, list | tuple) or held is not value else (value,):
                if isinstance(one, FunctionType | MethodType | BuiltinFunctionType | functools.partial):
                    self._value(name, one)
                elif not isinstance(one, nn.Module | Tensor | type) and not _of_library(type(one)):
                    self._class(type(one))

    def _class(self, cls: type) -> None:
        for base in cls.__mro__:
            if _of_library(base) or base in self._classes:
                continue
            self._classes[base] = None
            if own := [name for name in COPYING if name in vars(base)]:
                raise _Impure(f"{base.__name__} has a method {own[0]} of its own")

    def _helpers(self) -> None:
        """Methods and class attributes of the user's classes that the code names, until there are no further ones."""
        known = None
        while known != (known := (len(self._names), len(self._classes), self._changed)):
            for cls in list(self._classes):
                for name in ("__call__", "__getattr__", "__getitem__", "__iter__", "__next__", *sorted(self._names)):
                    self._method(cls, name)

    def _method(self, cls: type, name: str) -> None:
        owner = next((base for base in cls.__mro__ if name in vars(base)), None)
        if owner is None or _of_library(owner):
            return
        value = vars(owner)[name]
        if isinstance(value, property):
            value = value.fget
        elif isinstance(value, staticmethod | classmethod):
            value = value.__func__
        elif isinstance(value, functools.cached_property):
            value = value.func
        self._value(f"{cls.__name__}.{name}", value, self._changed)

    def _value(self, name: str, value: Any, changed: bool = False, sets: bool = False) -> None:
        """A value that the code reaches outside of the copy.

        Args:
            changed: the code changes containers, which may be this one.
            sets: the code sets attributes, which may be this one's.
        """
        if isinstance(value, (*_PLAIN, *_TORCH)) or id(value) in self._restored:
            return
        if isinstance(value, FunctionType):
            if not _of_library(value):
                self._function(value)
        elif isinstance(value, MethodType | BuiltinFunctionType):
            self._bound(name, value)
        elif isinstance(value, functools.partial):
            for one in (value.func, *value.args, *value.keywords.values()):
                self._value(name, one, changed)
        elif isinstance(value, type):
            self._class(value)
            self._names.add("__init__")
        elif isinstance(value, tuple | frozenset):
            for one in value:
                self._value(name, one, changed)
        elif isinstance(value, list | dict | set | Tensor) and type(value).__module__ in ("builtins", "torch"):
            if changed:
                raise _Impure(f"its code may change {name}")
            if not isinstance(value, Tensor):
                for one in value.values() if isinstance(value, dict) else value:
                    self._value(name, one)
        elif isinstance(value, ModuleType):
            if not _of_library(value):
                for inner in self._names & set(vars(value)):
                    key = (id(value), inner, changed)
                    if key not in self._inner:  # a function of a module leads to the module again
                        self._inner.add(key)
                        self._value(f"{name}.{inner}", vars(value)[inner], changed)
        elif _is_record(value) and not sets:
            for inner, one in vars(value).items():
                self._value(f"{name}.{inner}", one, changed)
        elif isinstance(value, nn.Module) or not callable(value) or not _of_library(value):
            raise _Impure(f"its code uses {name}, a {type(value).__name__}")

    def _bound(self, name: str, method: MethodType | BuiltinFunctionType) -> None:
        owner = method.__self__
        if owner is None or owner is _STREAM or (isinstance(owner, ModuleType | type) and _of_library(owner)):
            return
        if isinstance(method, MethodType):
            self._value(name, method.__func__)
        if not isinstance(owner, nn.Module):  # a module's own methods belong to the copy
            self._value(name, owner, changed=True, sets=True)

    def _function(self, function: FunctionType) -> None:
        if id(function) in self._read:
            return
        self._read.add(id(function))
        self._kept.append(function)
        codes = list(_codes(function.__code__))
        steps = [step for code in codes for step in dis.get_instructions(code)]
        names = {name for code in codes for name in code.co_names}
        self._names |= names
        if any(step.opname in _STORES for step in steps):
            raise _Impure(f"{function.__qualname__} sets a global")
        changed = bool(names & CHANGING) or any(step.opname in _ITEMS for step in steps)
        changed |= any(name.endswith("_") and not name.endswith("__") for name in names)
        sets = any(step.opname == "STORE_ATTR" for step in steps)
        self._changed |= changed
        if names & {"type", "__class__"} and sets:
            raise _Impure(f"{function.__qualname__} may set an attribute of a class")
        reached = {step.argval for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
        for name in sorted(reached):
            if name in function.__globals__:
                self._value(name, function.__globals__[name], changed, sets)
            elif name in REFUSED:
                raise _Impure(f"{function.__qualname__} calls {name}()")
            elif not hasattr(builtins, name):
                raise _Impure(f"{function.__qualname__} uses {name}, which is not defined")
        for step in steps:
            if step.opname == "IMPORT_NAME" and step.argval.partition(".")[0] not in LIBRARIES:
                raise _Impure(f"{function.__qualname__} imports {step.argval}")
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name != "__class__" and cell != _EMPTY:
                self._value(name, cell.cell_contents, changed, sets)
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._value(f"a default of {function.__qualname__}", value, changed)


_EMPTY = CellType()
_STREAM = getattr(random.random, "__self__", None)
"""The object behind the functions of `random`, whose state is restored."""


def _is_record(value: Any) -> bool:
    """Whether an object only holds values: a namespace, or a dataclass without methods."""
    if type(value) in (SimpleNamespace, argparse.Namespace):
        return True
    own = (one for base in type(value).__mro__[:-1] for name, one in vars(base).items() if not name.startswith("__"))
    return dataclasses.is_dataclass(value) and not any(callable(one) or hasattr(one, "__get__") for one in own)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _of_library(value: Any) -> bool:
    """Whether a function, class or module is Python's own or of a library that is taken to be harmless."""
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    if not isinstance(name, str):
        return type(value).__module__.partition(".")[0] in LIBRARIES
    return name == "builtins" or name.partition(".")[0] in LIBRARIES
