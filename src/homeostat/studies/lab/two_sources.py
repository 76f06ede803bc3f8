"""Two sources race for the same features: the equation of the race, and deep linear networks that run it.

Sources x_A = P_A z + sqrt(nu) n_A and x_B = P_B z + sqrt(nu) n_B show the same z with independent noise; the target is
y = U diag(s) z, and the network W_A x_A + W_B x_B, each W a product of D matrices. For a mode of strength s, with a and
b its strengths in the two paths and aligned, balanced weights, gradient flow on half the squared error is

    da/dt = D a^(2 - 2/D) (s - a - m b - nu a),     db/dt = m D b^(2 - 2/D) (s - a - b - nu b)

with m = 0 while source B is shut (its input is zero) and 1 otherwise. Noise makes a = b = s / (2 + nu) the only
optimum. Kleinman, Achille and Soatto (2023), arXiv:2308.12221, eq. 5, have nu = 0, where every a + b = s is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homeostat.core.errors import BadInput

Array = NDArray[np.floating[Any]]
Deficit = tuple[float, float]
"""From when to when source B is shut, in units of time; from = to for never."""


def race(depth: int, strength: float, noise: float, start: float, deficit: Deficit, end: float) -> tuple[float, float]:
    """Mode strengths (a, b) at time `end`, from a = b = `start`, by the equation.

    Raises:
        BadInput: scipy is not installed.
    """
    begin, stop = deficit
    state: Array = np.array([start, start])
    for when, until, open_ in ((0.0, begin, 1.0), (begin, stop, 0.0), (stop, end, 1.0)):
        if until > when:
            state = _flow(depth, strength, noise, state, until - when, open_)[:2, -1]
    return float(state[0]), float(state[1])


def learning_time(depth: int, strength: float, noise: float, start: float) -> float:
    """The time at which, without a deficit, the mode has reached half of its final strength."""
    goal, end = strength / (2 + noise) / 2, 8.0
    while True:
        path = _flow(depth, strength, noise, np.array([start, start]), end, 1.0)
        if path[0, -1] >= goal:
            return float(np.interp(goal, path[0], path[2]))
        end *= 2


def _flow(depth: int, strength: float, noise: float, state: Array, duration: float, open_: float) -> Array:
    """The path of a, b and the time [3, points] over a stretch in which source B stays open or shut."""
    try:
        from scipy.integrate import solve_ivp
    except ImportError as error:
        raise BadInput("studies need scipy: pip install 'homeostat[studies]'") from error
    power = 2 - 2 / depth

    def velocity(_: float, y: Array) -> list[float]:
        a, b = max(y[0], 0.0), max(y[1], 0.0)
        pull = strength - a - open_ * b
        return [depth * a**power * (pull - noise * a), open_ * depth * b**power * (pull - noise * b)]

    found = solve_ivp(velocity, (0.0, duration), state, method="LSODA", rtol=1e-8, atol=1e-12)
    return np.vstack([found.y, found.t])


@dataclass(frozen=True)
class Problem:
    """One draw of the sources, as second moments of a finite sample.

    Args:
        strengths: s of the modes [K].
        left: U [outputs, K]; right_a, right_b: P_A, P_B [inputs, K]; orthonormal columns.
        aa, ab, bb: moments of the sources [inputs, inputs]; ya, yb: of the target with them [outputs, inputs].
    """

    strengths: Array
    left: Array
    right_a: Array
    right_b: Array
    aa: Array
    ab: Array
    bb: Array
    ya: Array
    yb: Array

    @classmethod
    def draw(
        cls,
        strengths: Sequence[float],
        noise: float,
        samples: int,
        inputs: int,
        outputs: int,
        generator: np.random.Generator,
    ) -> Problem:
        """A problem whose moments come from so many samples."""
        modes = len(strengths)
        left, pa, pb = (np.linalg.qr(generator.normal(size=(n, modes)))[0] for n in (outputs, inputs, inputs))
        z = generator.normal(size=(samples, modes))
        a, b = (z @ p.T + np.sqrt(noise) * generator.normal(size=(samples, inputs)) for p in (pa, pb))
        y = z * np.asarray(strengths) @ left.T
        moment = lambda u, v: u.T @ v / samples  # noqa: E731
        return cls(
            np.asarray(strengths), left, pa, pb, moment(a, a), moment(a, b), moment(b, b), moment(y, a), moment(y, b)
        )


def descend(
    problem: Problem,
    depth: int,
    width: int,
    starts: Array,
    deficits: Sequence[Deficit],
    ends: Sequence[float],
    rate: float,
    generator: np.random.Generator,
) -> Array:
    """Gradient descent of one network for each deficit, from the same weights: mode strengths [deficits, 2, K].

    Args:
        problem: the sources.
        depth: D, matrices in a path.
        width: of the hidden layers.
        starts: initial strength of every mode in both paths [K].
        deficits, ends: when source B is shut, and when training ends, for each network (in units of time).
        rate: learning rate; a step is that much time.
        generator: draws the bases of the hidden layers.
    """
    paths = [
        _path(problem.left, right, depth, width, starts, generator) for right in (problem.right_a, problem.right_b)
    ]
    a, b = ([np.repeat(w[None], len(deficits), axis=0) for w in path] for path in paths)
    shut, last = np.round(np.asarray(deficits) / rate), np.round(np.asarray(ends) / rate)
    for step in range(int(last.max())):
        going = rate * (step < last)[:, None, None]
        m = 1.0 - ((shut[:, 0] <= step) & (step < shut[:, 1]))[:, None, None]
        wa, wb = _product(a), _product(b)
        ga = wa @ problem.aa + m * (wb @ problem.ab.T) - problem.ya
        gb = m * (wa @ problem.ab + wb @ problem.bb - problem.yb)
        a, b = _descended(a, ga, going), _descended(b, gb, going)
    sides = ((_product(a), problem.right_a), (_product(b), problem.right_b))
    return np.stack([np.einsum("ok,coi,ik->ck", problem.left, w, right) for w, right in sides], axis=1)


def _path(
    left: Array, right: Array, depth: int, width: int, starts: Array, generator: np.random.Generator
) -> list[Array]:
    """Matrices, first layer first, aligned with the modes and balanced: their product is left diag(starts) right'."""
    bases = [np.linalg.qr(generator.normal(size=(width, len(starts))))[0] for _ in range(depth - 1)]
    share = np.diag(starts ** (1 / depth))
    return [out @ share @ into.T for out, into in zip([*bases, left], [right, *bases], strict=True)]


def _product(path: list[Array]) -> Array:
    return reduce(lambda done, w: w @ done, path)


def _descended(path: list[Array], gradient: Array, rate: Array) -> list[Array]:
    """One step of every matrix of a path, given the gradient for their product."""
    before: list[Array] = []
    for w in path:
        before.append(w if not before else w @ before[-1])
    after, new = gradient, []
    for i in reversed(range(len(path))):
        inner = after @ before[i - 1].swapaxes(-1, -2) if i else after
        new.append(path[i] - rate * inner)
        after = path[i].swapaxes(-1, -2) @ after
    return new[::-1]
