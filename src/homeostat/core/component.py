"""Base of all components: a name, a citation, checked settings, and an entry in the registry.

Components are keyword-only frozen dataclasses. `knob(...)` declares a numeric setting that may be changed during the
run, `option(...)` a fixed choice, `integer(...)` a fixed integer. Defining a concrete subclass registers it; nothing
else has to be edited. The registry is only for look-up: every class works without it.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from homeostat.core.cite import Cite
from homeostat.core.errors import BadSetting, UnknownName


@dataclass(frozen=True)
class Knob:
    """The range and meaning of a number that may be changed during the run.

    Args:
        low, high: closed bounds.
        neutral: the value at which the component does nothing; None if there is no such value.
        unit: physical unit, e.g. "1/step", "steps", "fraction of units".
        source: where the default comes from.
        integer: only integers are accepted.
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


@dataclass(frozen=True)
class Whole:
    """The range of a fixed integer.

    Args:
        low: smallest value, None for any.
        unit: what it counts.
    """

    low: int | None
    unit: str = ""

    def check(self, owner: str, name: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or (self.low is not None and value < self.low):
            of = f" of {self.unit}" if self.unit else ""
            least = "" if self.low is None else f" of at least {self.low}"
            raise BadSetting(f"{owner}.{name} must be a whole number{of}{least}, got {value!r}")


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
    """A dataclass field for a number that a controller or the user may change during the run."""
    high = min(high, 1e30)
    return field(default=default, metadata={"knob": Knob(low, high, neutral, unit, source, integer)})


def option(default: Any, *, choices: tuple[Any, ...] | None = None, doc: str = "") -> Any:
    """A dataclass field for a fixed choice among `choices`, if given."""
    return field(default=default, metadata={"choices": choices, "doc": doc})


def integer(default: int, *, low: int | None = 1, unit: str = "", doc: str = "") -> Any:
    """A dataclass field for a fixed integer of at least `low` (None: any)."""
    return field(default=default, metadata={"whole": Whole(low, unit), "doc": doc})


def kebab(class_name: str) -> str:
    """`ContinualBackprop` -> `continual-backprop`; `ReDo` and other irregular names set `name` themselves."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", class_name).lower()


REGISTRY: dict[str, dict[str, type[Component]]] = {}
"""Kind -> name -> class of every defined component. Checks replace entries temporarily."""
PACKAGES = {
    "vital": "vitals",
    "treatment": "treatments",
    "controller": "controllers",
    "objective": "objectives",
    "stream": "streams",
    "curve": "curves",
    "condition": "diagnosis.conditions",
    "study": "studies",
}
"""Kind -> the package, below `homeostat`, that holds its components."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """Base of all components.

    Class attributes of a concrete component:
        cite: the paper, or the papers with the main one first.
        entries: ids of the catalogue rows that the component implements or measures; by default those of `cite`.
        declared: law name -> reason, for laws that this component is known not to satisfy. Shown in the docs.
    """

    kind: ClassVar[str] = ""
    name: ClassVar[str] = ""
    cite: ClassVar[Cite | tuple[Cite, ...]]
    entries: ClassVar[tuple[str, ...]] = ()
    declared: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "cite" in cls.__dict__ and "entries" not in cls.__dict__:
            cls.entries = tuple(id for cite in cites(cls) if (id := getattr(cite, "id", "")))
        if abstract:
            return
        if "name" not in cls.__dict__:
            cls.name = kebab(cls.__name__)
        REGISTRY.setdefault(cls.kind, {})[cls.name] = cls

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            for range_of in ("knob", "whole"):
                if (allowed := spec.metadata.get(range_of)) is not None:
                    allowed.check(self.name, spec.name, value)
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
        """The knobs as 0-dim float64 tensors, as `plan` receives them and controllers set them."""
        return {name: torch.tensor(float(getattr(self, name)), dtype=torch.float64) for name in self.knob_specs()}

    @classmethod
    def neutral(cls) -> Self | None:
        """This component with knobs at their neutral values, or None if no knob has one."""
        values = {n: s.neutral for n, s in cls.knob_specs().items() if s.neutral is not None}
        return cls(**values) if values else None

    def settings(self) -> dict[str, Any]:
        """Every setting by name, JSON-friendly."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def cites(component: type[Component] | Component) -> tuple[Cite, ...]:
    """The papers of a component, the main one first; empty if it cites none."""
    found: Cite | tuple[Cite, ...] = getattr(component, "cite", ())
    return found if isinstance(found, tuple) else (found,)


@cache
def discover(*kinds: str) -> None:
    """Import every module that holds components of these kinds (of all kinds without any), so that they register."""
    for name in dict.fromkeys(PACKAGES[kind] for kind in kinds or PACKAGES):
        package = importlib.import_module(f"homeostat.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"homeostat.{name}."):
            importlib.import_module(module.name)


def components(kind: str) -> dict[str, type[Any]]:
    """Every registered component of a kind, by name, sorted."""
    if kind in PACKAGES:
        discover(kind)
    return dict(sorted(REGISTRY.get(kind, {}).items()))


def kinds() -> tuple[str, ...]:
    """Every kind that has a registered component, sorted."""
    discover()
    return tuple(sorted(kind for kind, named in REGISTRY.items() if named))


def find(kind: str, name: str) -> type[Any]:
    """The component class of that kind and name.

    Raises:
        UnknownName: there is no such component; the nearest names are suggested.
    """
    known = components(kind)
    key = name if name in known else kebab(name).replace("_", "-")
    if key not in known:
        raise UnknownName(kind, name, known)
    return known[key]


def build(kind: str, text: str) -> Any:
    """Make a component from `name` or `name:setting=value,setting=value`, as the command line takes it.

    Raises:
        UnknownName: the name or a setting is unknown; the nearest are suggested.
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
