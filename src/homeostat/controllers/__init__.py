"""Control laws, and controllers that set a knob according to a vital."""

from homeostat.controllers.controllers import PI, DualAscent, Hysteresis, Multiplicative, Proportional
from homeostat.controllers.homeostatic import Homeostatic
from homeostat.controllers.laws import dual_ascent, hysteresis, multiplicative, pi, proportional
from homeostat.controllers.one_way import OneWaySwitch

__all__ = [
    "PI",
    "DualAscent",
    "Homeostatic",
    "Hysteresis",
    "Multiplicative",
    "OneWaySwitch",
    "Proportional",
    "dual_ascent",
    "hysteresis",
    "multiplicative",
    "pi",
    "proportional",
]
