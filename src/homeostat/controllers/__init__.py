"""Control laws, and controllers that turn a knob by a vital."""

from homeostat.controllers.controllers import PI, DualAscent, Hysteresis, Multiplicative, Proportional
from homeostat.controllers.laws import dual_ascent, hysteresis, multiplicative, pi, proportional

__all__ = [
    "PI",
    "DualAscent",
    "Hysteresis",
    "Multiplicative",
    "Proportional",
    "dual_ascent",
    "hysteresis",
    "multiplicative",
    "pi",
    "proportional",
]
