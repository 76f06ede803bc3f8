"""The tests of this folder judge rules, not the speed of the machine."""

import pytest


@pytest.fixture(autouse=True)
def start_up_readings_on_slow_machines(monkeypatch):
    """Give the readings of the first steps the time that they need on a slow machine too."""
    monkeypatch.setattr("homeostat.shell.run.run.START_UP_SECONDS", 60.0)
