"""Reward against policy entropy: R = -a exp(H) + b."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from homeostat.core.component import Cite
from homeostat.core.curve import Array, Curve


@dataclass(frozen=True, kw_only=True)
class EntropyReward(Curve):
    """Validation reward against mean token entropy while a policy is trained: R = -a exp(H) + b.

    H is in nats per token. Entropy falls while reward rises, so the reward at H = 0, b - a, is a ceiling that can be
    predicted early: `forecast(0.0, of="curve")`. The family is linear in a and b, so intervals are exact (see
    `core.curve`).

    Source: Cui et al. (2025), eq. 1 and section 2.

    >>> H = [1.0, 0.8, 0.5, 0.3, 0.1]
    >>> fitted = EntropyReward().fit(H, [0.9 - 0.2 * 2.718281828**h for h in H])
    >>> {name: round(value, 6) for name, value in fitted.parameters.items()}
    {'a': 0.2, 'b': 0.9}
    >>> round(float(fitted.forecast(0.0).mean[0]), 6)
    0.7
    """

    cite = Cite.of("entropy-mechanism")
    parameters = ("a", "b")
    example = (0.3, 0.9)
    domain = (0.05, 1.0)

    def value(self, x: Array, parameters: Array) -> Array:
        return parameters[1] - parameters[0] * np.exp(x)

    def derivative(self, x: Array, parameters: Array) -> Array:
        return np.stack([-np.exp(x), np.ones_like(x)], axis=-1)

    def start(self, x: Array, y: Array) -> Array:
        return np.asarray(np.linalg.lstsq(self.derivative(x, np.zeros(2)), y, rcond=None)[0], dtype=np.float64)
