"""What every component has: a name, a citation, checked settings, and a place in the registry.

Components are keyword-only frozen dataclasses. A numeric setting that something may turn while the run goes on is
declared with `knob(...)`; a fixed choice is declared with `option(...)`. Defining a concrete subclass registers it;
nothing else has to be edited. The registry is metadata only: every class works without it.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from homeostat.core.errors import BadSetting, UnknownName


@dataclass(frozen=True)
class Cite:
    """The paper behind a component."""

    authors: str
    year: int
    title: str
    arxiv: str = ""
    where: str = ""

    def __str__(self) -> str:
        ident = f", arXiv:{self.arxiv}" if self.arxiv else ""
        where = f", {self.where}" if self.where else ""
        return f"{self.authors} ({self.year}). {self.title}{ident}{where}"


@dataclass(frozen=True)
class Knob:
    """The range and meaning of one turnable number.

    Args:
        low, high: closed bounds.
        neutral: the value at which the component does nothing (None: the knob alone cannot neutralise it).
        unit: physical unit, e.g. "1/step", "steps", "fraction of units".
        source: where the default comes from.
        integer: only whole numbers are accepted.
    """

    low: float
    high: float
    neutral: float | None
    unit: str
    source: str
    integer: bool = False

    def check(self, owner: str, name: str, value: object) -> None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not self.low <= value <= self.high:  # type: ignore[operator, arg-type]
            raise BadSetting(
                f"{owner}.{name} must be a number in [{self.low:g}, {self.high:g}] ({self.unit}), got {value!r}"
            )
        if self.integer and value != int(value):  # type: ignore[arg-type]
            raise BadSetting(f"{owner}.{name} must be a whole number ({self.unit}), got {value!r}")


def knob(
    default: float,
    *,
    low: float = 0.0,
    high: float = math.inf,
    neutral: float | None = None,
    unit: str = "",
    source: str = "",
    integer: bool = False,
) -> Any:
    """A dataclass field for a number that a controller or a user may turn while the run goes on."""
    high = min(high, 1e30)
    return field(default=default, metadata={"knob": Knob(low, high, neutral, unit, source, integer)})


def option(default: Any, *, choices: tuple[Any, ...] | None = None, doc: str = "") -> Any:
    """A dataclass field for a fixed choice; `choices` limits it."""
    return field(default=default, metadata={"choices": choices, "doc": doc})


def kebab(class_name: str) -> str:
    """`ContinualBackprop` -> `continual-backprop`; `ReDo` and other irregular names set `name` themselves."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", class_name).lower()


_REGISTRY: dict[str, dict[str, type[Component]]] = {}
_ROOMS = ("vitals", "treatments", "controllers", "objectives", "streams", "curves", "diagnosis", "studies")


@dataclass(frozen=True, kw_only=True)
class Component:
    """Base of everything that is named, cited, checked and listed.

    Class attributes a concrete component sets:
        cite: the paper (or papers, first one leading).
        entries: ids of the catalogue rows this component serves (derived state of the catalogue reads it).
        declared: law name -> reason, for laws this component is known not to satisfy. Printed in the docs.
    """

    kind: ClassVar[str] = ""
    name: ClassVar[str] = ""
    cite: ClassVar[Cite | tuple[Cite, ...]]
    entries: ClassVar[tuple[str, ...]] = ()
    declared: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if abstract:
            return
        if "name" not in cls.__dict__:
            cls.name = kebab(cls.__name__)
        _REGISTRY.setdefault(cls.kind, {})[cls.name] = cls

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if (knob_spec := spec.metadata.get("knob")) is not None:
                knob_spec.check(self.name, spec.name, value)
            choices = spec.metadata.get("choices")
            if choices is not None and value not in choices:
                raise BadSetting(
                    f"{self.name}.{spec.name} must be one of {', '.join(map(repr, choices))}, got {value!r}"
                )

    @classmethod
    def knob_specs(cls) -> dict[str, Knob]:
        """Name -> range and meaning of every knob."""
        return {f.name: f.metadata["knob"] for f in dataclasses.fields(cls) if "knob" in f.metadata}

    def knobs(self) -> dict[str, Tensor]:
        """The knobs as 0-dim float64 tensors: what `plan` is given, and what a controller turns."""
        return {name: torch.tensor(float(getattr(self, name)), dtype=torch.float64) for name in self.knob_specs()}

    @classmethod
    def neutral(cls) -> Self | None:
        """This component with every knob that has a neutral value set to it, or None when it has none."""
        values = {n: s.neutral for n, s in cls.knob_specs().items() if s.neutral is not None}
        return cls(**values) if values else None

    def settings(self) -> dict[str, Any]:
        """Every setting by name, JSON-friendly."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def discover() -> None:
    """Import every module of the component rooms, so that their components register."""
    for room in _ROOMS:
        package = importlib.import_module(f"homeostat.{room}")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"homeostat.{room}.{module.name}")


def components(kind: str) -> dict[str, type[Any]]:
    """Every registered component of a kind, by name, sorted."""
    discover()
    return dict(sorted(_REGISTRY.get(kind, {}).items()))


def kinds() -> tuple[str, ...]:
    """Every kind that has a registered component, sorted."""
    discover()
    return tuple(sorted(kind for kind, named in _REGISTRY.items() if named))


def find(kind: str, name: str) -> type[Any]:
    """The component class of that kind and name.

    Raises:
        UnknownName: nothing answers to it; the nearest names are suggested.
    """
    known = components(kind)
    key = name if name in known else kebab(name).replace("_", "-")
    if key not in known:
        raise UnknownName(kind, name, known)
    return known[key]


def build(kind: str, text: str) -> Any:
    """Make a component from `name` or `name:setting=value,setting=value`, as the command line takes it.

    Raises:
        UnknownName: the name, or a setting, is not known; the nearest are suggested.
        BadSetting: a value is out of range or not of the setting's type.
    """
    name, _, tail = text.partition(":")
    cls = find(kind, name.strip())
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in tail.split(","))):
        key, eq, raw = item.partition("=")
        key = key.strip().replace("-", "_")
        if key not in fields:
            raise UnknownName(f"setting of {cls.name}", key, fields)
        if not eq:
            raise BadSetting(f"{cls.name}: write {key}=VALUE, got {item!r}")
        values[key] = _parse(cls.name, key, raw.strip(), fields[key].default)
    return cls(**values)


def _parse(owner: str, key: str, raw: str, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[raw.lower()]
        if isinstance(default, (int, float)):
            value = float(raw)
            return int(value) if isinstance(default, int) and value.is_integer() else value
    except (KeyError, ValueError):
        raise BadSetting(f"{owner}.{key}: cannot read {raw!r} as {type(default).__name__}") from None
    return raw
