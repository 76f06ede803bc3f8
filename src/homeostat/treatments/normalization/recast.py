"""Makes a module of another class that shares the parameters of a given one."""

from __future__ import annotations

import copy
from typing import Any, cast

from torch import nn


def recast(module: nn.Module, kind: type[nn.Module]) -> Any:
    """A module of class `kind` with the parameters, buffers, children, hooks and attributes of `module`.

    Adding parameters or children to the result does not change `module`.
    """
    new: Any = kind.__new__(kind)
    # the tables of parameters, buffers and children are copied; those of hooks stay shared
    for key, value in vars(module).items():
        copied = isinstance(value, dict) and "hook" not in key
        new.__dict__[key] = copy.copy(cast(Any, value)) if copied else value
    return new
