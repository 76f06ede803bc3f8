"""The modules, parameters and buffers of a network, from the tables that `nn.Module` keeps.

`nn.Module.named_modules` and its relatives give the same, but call methods that the script may have overridden
(`named_parameters`, `__hash__`, `__eq__`) and with which it could notice that it is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from torch import Tensor, nn

from homeostat.shell.hooks.torch_internals import buffers_of, children_of, own_parameters

T = TypeVar("T", bound=Tensor)


def named_modules_in(
    model: nn.Module, remove_duplicate: bool = True, prefix: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """(path, module), the model itself first; every module once, under its first path.

    Args:
        remove_duplicate: give a module once; else once for each path.
        prefix, seen: of the call for the module above.
    """
    seen = set() if seen is None else seen
    if id(model) in seen:
        return
    if remove_duplicate:
        seen.add(id(model))
    yield prefix, model
    for name, child in children_of(model).items():
        if child is not None:
            yield from named_modules_in(child, remove_duplicate, f"{prefix}.{name}" if prefix else name, seen)


def modules_in(model: nn.Module) -> Iterator[nn.Module]:
    """Every module once, the model itself first."""
    return (module for _, module in named_modules_in(model))


def named_parameters_in(model: nn.Module, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Parameter]]:
    """(path, parameter) of the model and its modules.

    Args:
        remove_duplicate: give a parameter once, under its first path; else once for each path.
    """
    tables = ((path, own_parameters(module)) for path, module in named_modules_in(model, remove_duplicate))
    return _members(tables, remove_duplicate)


def named_buffers_in(model: nn.Module, remove_duplicate: bool = True) -> Iterator[tuple[str, Tensor]]:
    """(path, buffer) of the model and its modules; see `named_parameters_in`."""
    tables = ((path, buffers_of(module)) for path, module in named_modules_in(model, remove_duplicate))
    return _members(tables, remove_duplicate)


def parameters_in(model: nn.Module) -> Iterator[nn.Parameter]:
    """Every parameter of the model and its modules, once."""
    return (parameter for _, parameter in named_parameters_in(model))


def buffers_in(model: nn.Module) -> Iterator[Tensor]:
    """Every buffer of the model and its modules, once."""
    return (buffer for _, buffer in named_buffers_in(model))


def _members(tables: Iterator[tuple[str, dict[str, T | None]]], remove_duplicate: bool) -> Iterator[tuple[str, T]]:
    seen: set[int] = set()
    for path, table in tables:
        for name, tensor in table.items():
            if tensor is None or id(tensor) in seen:
                continue
            if remove_duplicate:
                seen.add(id(tensor))
            yield f"{path}.{name}" if path else name, tensor
