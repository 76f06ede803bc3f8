"""The laws every component obeys, as public checks: `check_component(component)`."""

from homeostat.testing.check import Report, check_component

__all__ = ["Report", "check_component"]
