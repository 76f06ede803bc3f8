"""`check_component`: does a component keep the laws that every component of its kind obeys?"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from homeostat.core.component import Component
from homeostat.core.errors import BadInput, UnknownName

Law = tuple[str, Callable[[], None]]
"""A law's name and a check that raises AssertionError, with a sentence, when the law is broken."""

_LAWS = {
    "vital": ("homeostat.testing.vital_laws", "laws_for_vital"),
    "treatment": ("homeostat.testing.treatment_laws", "laws_for_treatment"),
    "controller": ("homeostat.testing.controller_laws", "laws_for_controller"),
    "stream": ("homeostat.testing.stream_laws", "laws_for_stream"),
}


@dataclass(frozen=True)
class Report:
    """What the laws say about one component.

    Args:
        component: its name.
        passed: names of the laws it keeps.
        failed: law -> what is wrong.
        declared: law -> the component's own reason for not keeping it.
    """

    component: str
    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    declared: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """No law is broken beyond those declared."""
        return not self.failed

    def __str__(self) -> str:
        lines = [f"{self.component}: {len(self.passed)} laws kept"]
        lines += [f"  declared  {law}: {why}" for law, why in self.declared.items()]
        lines += [f"  FAILED    {law}: {why}" for law, why in self.failed.items()]
        return "\n".join(lines)


def check_component(component: Component | type[Component]) -> Report:
    """Check a component, or a component class with its default settings, against the laws of its kind.

    A law that the component declares as not kept is reported under `declared` while it fails; once it holds, the
    declaration is stale, which is a failure, as is declaring a law that does not exist.

    Raises:
        BadInput: not a component, or a class that cannot be made without arguments.
        UnknownName: there are no laws for its kind.

    >>> from homeostat.controllers import PI
    >>> check_component(PI).ok
    True
    """
    instance = _instance(component)
    if instance.kind not in _LAWS:
        raise UnknownName("kind of component with laws", instance.kind, _LAWS)
    module, function = _LAWS[instance.kind]
    return run_laws(instance.name, getattr(importlib.import_module(module), function)(instance), instance.declared)


def run_laws(name: str, laws: Sequence[Law], declared: Mapping[str, str]) -> Report:
    """Run named checks and sort the outcomes."""
    report = Report(name)
    for law, check in laws:
        wrong = _outcome(check)
        if law in declared and wrong:
            report.declared[law] = declared[law]
        elif law in declared:
            report.failed[law] = "declared as not kept, but it is kept: remove the declaration"
        elif wrong:
            report.failed[law] = wrong
        else:
            report.passed.append(law)
    for law in set(declared) - {law for law, _ in laws}:
        report.failed[law] = "declared as not kept, but there is no such law"
    return report


def _outcome(check: Callable[[], None]) -> str:
    try:
        check()
    except AssertionError as error:
        return str(error) or "broken"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _instance(component: Any) -> Component:
    if isinstance(component, type) and issubclass(component, Component):
        try:
            return component()
        except Exception as error:
            raise BadInput(
                f"{component.__name__} cannot be made without arguments; check an instance: {error}"
            ) from None
    if not isinstance(component, Component):
        raise BadInput(f"check_component takes a component or its class, got {type(component).__name__}")
    return component
