"""What holds for all vitals together; tests/testing/test_laws.py checks the laws of each."""

import homeostat.vitals
from homeostat.core.component import components
from homeostat.testing.transparency import transparent

VITALS = {n: c for n, c in components("vital").items() if c.__module__.startswith("homeostat.")}


def test_all_vitals_measured_together_leave_a_run_as_it_is():
    transparent(*(vital() for vital in VITALS.values()))


def test_exports_are_sorted_and_exist():
    exported = homeostat.vitals.__all__
    assert exported == sorted(exported)
    assert all(hasattr(homeostat.vitals, name) for name in exported)
