"""`check_component`: checks a component against the laws of its kind."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from homeostat.core.component import Component
from homeostat.core.errors import BadInput, UnknownName
from homeostat.testing.law import Law, Report, run_law

__all__ = ["Law", "Report", "check_component", "kinds_with_laws", "laws_for", "laws_of_kind", "run_laws"]

_LAWS = {
    "vital": "vital_laws",
    "treatment": "treatment_laws",
    "controller": "controller_laws",
    "stream": "stream_laws",
    "objective": "objective_laws",
    "curve": "curve_laws",
    "condition": "condition_laws",
    "study": "study_laws",
}


def check_component(
    component: Component | type[Component],
    *,
    thorough: bool = False,
    only: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Check a component, or a component class with its default settings, against the laws of its kind.

    A law that the component declares as an exception is reported under `declared` while it fails. A declared law that
    holds is a failure, because the declaration is out of date. Declaring a law that does not exist is a failure too. A
    law that does not apply to the component is reported under `skipped`, with the reason.

    Args:
        component: a component, or a component class.
        thorough: also run long runs on every network of the grid, and a second process; takes minutes.
        only: names of the laws to check; all if empty.
        progress: called before each law with its name, its index and the number of laws.

    Raises:
        BadInput: not a component, or a class that needs arguments.
        UnknownName: its kind has no laws, or `only` has an unknown name.

    >>> from homeostat.controllers import PI
    >>> check_component(PI).ok
    True
    """
    instance = as_component(component)
    laws = laws_for(instance, thorough)
    known = [law.name for law in laws]
    for name in only:
        if name not in known:
            raise UnknownName(f"law of a {instance.kind}", name, known)
    chosen = [law for law in laws if not only or law.name in only]
    declared = {name: why for name, why in instance.declared.items() if not only or name in only}
    return run_laws(instance.name, chosen, declared, kind=instance.kind, progress=progress)


def run_laws(
    name: str,
    laws: Sequence[Law],
    declared: Mapping[str, str],
    *,
    kind: str = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Check laws and collect the outcomes in a report."""
    report = Report(name, kind=kind)
    for number, law in enumerate(laws):
        if progress is not None:
            progress(law.name, number, len(laws))
        run_law(law, declared, report)
    for law in sorted(set(declared) - {law.name for law in laws}):
        report.failed[law] = "declared as an exception, but there is no such law"
    return report


def laws_for(component: Component, thorough: bool = False) -> list[Law]:
    """The laws of the component's kind, bound to the component, in a fixed order.

    Raises:
        UnknownName: its kind has no laws.
    """
    return _module(component.kind).laws_for(component, thorough)


def laws_of_kind(kind: str) -> dict[str, str]:
    """Name -> statement of every law of a kind, in order.

    Raises:
        UnknownName: the kind has no laws.
    """
    return _module(kind).laws_of_kind()


def kinds_with_laws() -> tuple[str, ...]:
    """The kinds of component that have laws."""
    return tuple(_LAWS)


def as_component(component: Any) -> Component:
    """The component itself, or an instance of a class with default settings.

    Raises:
        BadInput: not a component, or a class that needs arguments.
    """
    if isinstance(component, type) and issubclass(component, Component):
        try:
            return component()
        except Exception as error:
            raise BadInput(f"{component.__name__} needs arguments; check an instance instead: {error}") from None
    if not isinstance(component, Component):
        raise BadInput(f"check_component takes a component or its class, got {type(component).__name__}")
    return component


def _module(kind: str) -> Any:
    if kind not in _LAWS:
        raise UnknownName("kind of component with laws", kind, _LAWS)
    return importlib.import_module(f"homeostat.testing.{_LAWS[kind]}")
