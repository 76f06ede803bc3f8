"""Every component of the package keeps the laws of its kind, but for what it declares.

The fast suite checks the components whose code changed since their evidence was written; the slow stage checks every
eighth of all, thoroughly; `make thorough` checks the others.
"""

import pytest

from homeostat.catalogue.evidence import laws_are_current
from homeostat.core.component import components
from homeostat.testing.check import check_component, kinds_with_laws

COMPONENTS = [
    component
    for kind in kinds_with_laws()
    for component in components(kind).values()
    if component.__module__.startswith("homeostat.")
]


def cases():
    for number, component in enumerate(COMPONENTS):
        label = f"{component.kind}.{component.name}"
        if not laws_are_current(component):
            yield pytest.param(component, False, id=label)
        marks = pytest.mark.thorough if number % 8 else pytest.mark.slow
        yield pytest.param(component, True, id=f"{label}-thorough", marks=marks)


@pytest.mark.parametrize(("component", "thorough"), list(cases()))
def test_laws(component, thorough):
    report = check_component(component, thorough=thorough)
    assert report.ok, str(report)
    assert set(report.declared) == set(component.declared)
