"""Controllers keep the laws with settings other than the defaults, which test_laws.py checks."""

import pytest

from homeostat.controllers import PI, DualAscent, Hysteresis, Multiplicative, Proportional
from homeostat.testing.check import check_component


@pytest.mark.parametrize(
    "controller",
    [
        PI(set_point=0.2, kp=0.3, ki=0.1, low=-1.0, high=2.0, slew=0.05, when_high="lower"),
        PI(kp=0.0, ki=0.2),
        Proportional(set_point=-3.0, kp=1.5, when_high="lower"),
        Hysteresis(set_point=0.5, band=0.2, slew=0.3),
        DualAscent(rate=0.05, optimistic=True, high=5.0),
        Multiplicative(set_point=0.1, low=1e-3, high=10.0, rate=0.4, when_high="lower"),
    ],
    ids=lambda c: f"{c.name}-{c.when_high}",
)
def test_laws_with_other_settings(controller):
    report = check_component(controller)
    assert report.ok, str(report)
