"""Loss against size: y = a x^-b + c."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from homeostat.core.component import Cite
from homeostat.core.curve import Array, Curve
from homeostat.core.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class PowerLaw(Curve):
    """Error against the amount of data, parameters or compute: y = a x^-b + c, for x > 0.

    c is the error that remains for large x. Intervals are first-order (see `core.curve`): far beyond the data they are
    too narrow.

    Source: Hestness et al. (2017), eq. 1, with their beta_g = -b and gamma = c.

    >>> x = [1.0, 2.0, 5.0, 10.0, 50.0, 100.0]
    >>> fitted = PowerLaw().fit(x, [0.5 * v**-0.7 + 0.1 for v in x])
    >>> [round(value, 6) for value in fitted.parameters.values()]
    [0.5, 0.7, 0.1]
    """

    cite = Cite.of("hestness-power-law")
    parameters = ("a", "b", "c")
    example = (2.0, 0.5, 0.3)
    domain = (1.0, 1000.0)
    spacing = "log"

    def value(self, x: Array, parameters: Array) -> Array:
        a, b, c = parameters
        return a * np.exp(-b * np.log(x)) + c

    def derivative(self, x: Array, parameters: Array) -> Array:
        a, b, _ = parameters
        power = np.exp(-b * np.log(x))
        return np.stack([power, -a * np.log(x) * power, np.ones_like(x)], axis=-1)

    def start(self, x: Array, y: Array) -> Array:
        """The exponent of a coarse grid with the smallest residual, and its a and c, which are linear."""
        tried: list[tuple[float, list[float]]] = []
        for b in (-2.0, -1.0, -0.5, -0.2, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0):
            power = np.exp(-b * np.log(x))
            basis = np.stack([power / power.max(), np.ones_like(x)], axis=-1)
            (a, c), *_ = np.linalg.lstsq(basis, y, rcond=None)
            tried.append((float(np.square(basis @ [a, c] - y).sum()), [a / power.max(), b, c]))
        return np.array(min(tried)[1])

    def admit(self, x: Array) -> None:
        if (x <= 0).any():
            raise BadInput(f"{self.name} is defined for x above 0, got {float(x.min()):g}")
