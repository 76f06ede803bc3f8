"""Public checks of the laws that every component must satisfy: `check_component(component)`."""

from homeostat.testing.check import check_component, kinds_with_laws, laws_for, laws_of_kind
from homeostat.testing.law import DoesNotApply, Law, Report

__all__ = [
    "DoesNotApply",
    "Law",
    "Report",
    "check_component",
    "kinds_with_laws",
    "laws_for",
    "laws_of_kind",
]
