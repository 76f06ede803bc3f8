"""Convert dataclasses about units to plain values and back, for checkpoints."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from homeostat.core.errors import BadInput

_HOMES = ("homeostat.core.units", "homeostat.core.treatment", "homeostat.shell.unit_graph.activation_points")
"""Modules whose dataclasses are saved; no other class is ever made from a file."""


def flattened(value: Any) -> Any:
    """The value with each dataclass in it as {"of": its class, "fields": {...}}."""
    kind = type(value)
    if dataclasses.is_dataclass(kind) and kind.__module__ in _HOMES:
        fields = {f.name: flattened(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"of": f"{kind.__module__}.{kind.__name__}", "fields": fields}
    if isinstance(value, (list, tuple)):
        return kind(flattened(item) for item in value)
    if isinstance(value, dict):
        return {key: flattened(item) for key, item in value.items()}
    return value


def revived(value: Any) -> Any:
    """The inverse of `flattened`. Fields that a class no longer has are dropped.

    Raises:
        BadInput: a class that is never saved.
    """
    if isinstance(value, dict):
        if value.keys() == {"of", "fields"}:
            cls = _class(value["of"])
            known = {f.name for f in dataclasses.fields(cls)}
            return cls(**{key: revived(item) for key, item in value["fields"].items() if key in known})
        return {key: revived(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(revived(item) for item in value)
    return value


def _class(path: str) -> Any:
    home, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(home), name, None) if home in _HOMES else None
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise BadInput(f"{path} is not kept in checkpoints: the file is damaged or was written by something else")
    return found
