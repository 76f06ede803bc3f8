"""Bistable systems for the study of early-warning signals: many runs at once, simulated until they cross over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class System:
    """A system that stays near its resting state until it crosses a threshold, by chance or because its control moves.

    Args:
        says: description of the system.
        every: steps between two samples.
        points: samples in a window.
        steps: maximum steps of a run at constant control.
        rest, critical: control parameter at rest, and where the resting state ceases to exist.
    """

    says: str
    every: int
    points: int
    steps: int
    rest: float
    critical: float

    def start(self, runs: int, generator: np.random.Generator) -> Array:
        """Initial state of `runs` runs at rest."""
        raise NotImplementedError

    def step(self, state: Array, control: float, generator: np.random.Generator) -> Array:
        """Advance the state by one step."""
        raise NotImplementedError

    def signal(self, state: Array) -> Array:
        """Observed value [runs]."""
        return state

    def crossed(self, signal: Array) -> NDArray[np.bool_]:
        """Whether a run has left its resting state [runs]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Allee(System):
    """Birth and death with an Allee effect, as a diffusion: births K n^2 / (n^2 + h^2), deaths e n + a.

    dn = (births - deaths) dt + sqrt(births + deaths) dB with K = 500, h = 200, e = 0.5, dt = 0.1; the authors simulate
    the individuals one by one. `a` is the control; at rest the return rate is about a quarter per time unit. A run has
    crossed below the unstable point.
    """

    dt: ClassVar[float] = 0.1

    def start(self, runs: int, generator: np.random.Generator) -> Array:
        return np.full(runs, self.points_of_rest()[-1])

    def step(self, state: Array, control: float, generator: np.random.Generator) -> Array:
        births, deaths = 500 * state**2 / (state**2 + 200**2), 0.5 * state + control
        noise = np.sqrt((births + deaths) * self.dt) * generator.standard_normal(state.shape)
        return np.maximum(state + (births - deaths) * self.dt + noise, 0.0)

    def crossed(self, signal: Array) -> NDArray[np.bool_]:
        return signal < self.points_of_rest()[-2]

    def points_of_rest(self) -> Array:
        """The unstable and the stable number of individuals at rest."""
        return _positive_roots(0.5, self.rest - 500, 0.5 * 200**2, self.rest * 200**2)


@dataclass(frozen=True)
class May(System):
    """May's (1977) grazed population in discrete time: x <- z x exp(r (1 - x/K) - a x^2 / (x^3 + 1)).

    r = 0.75, K = 10, log z normal with standard deviation 0.1, as in the authors' code. The grazing `a` is the control.
    A run has crossed below the unstable point.
    """

    def start(self, runs: int, generator: np.random.Generator) -> Array:
        return np.full(runs, self.points_of_rest()[-1])

    def step(self, state: Array, control: float, generator: np.random.Generator) -> Array:
        growth = 0.75 * (1 - state / 10) - control * state**2 / (state**3 + 1)
        return state * np.exp(growth + 0.1 * generator.standard_normal(state.shape))

    def crossed(self, signal: Array) -> NDArray[np.bool_]:
        return signal < self.points_of_rest()[-2]

    def points_of_rest(self) -> Array:
        """The unstable and the stable population at rest (and perhaps the other stable one)."""
        return _positive_roots(-0.075, 0.75, -self.rest, -0.075, 0.75)


@cache
def _positive_roots(*polynomial: float) -> Array:
    roots = np.roots(polynomial)
    real: Array = roots.real.astype(np.float64)
    return np.sort(real[(np.abs(roots.imag) < 1e-9) & (real > 0)])


@dataclass(frozen=True)
class Training(System):
    """Networks 2 -> 6 (tanh) -> 1 on 32 noisy items of a sine, SGD on one item per step. The observed value is the
    logarithm of the loss on all items. The learning rate is the control. A run has crossed when its loss is above the
    threshold.
    """

    threshold: float = 0.0
    width: ClassVar[int] = 6

    def start(self, runs: int, generator: np.random.Generator) -> Array:
        return generator.standard_normal((runs, 4 * self.width + 1)) * 0.5

    def step(self, state: Array, control: float, generator: np.random.Generator) -> Array:
        inputs, targets = _items()
        pick = generator.integers(0, len(targets), len(state))
        x = inputs[pick]
        hidden, error = self._errors(state, x[:, None], targets[pick, None])
        hidden, error, w = hidden[:, 0], error[:, 0], self.width
        back = error[:, None] * state[:, 3 * w : 4 * w] * (1 - hidden**2)
        gradient = np.concatenate([back * x[:, :1], back * x[:, 1:], back, error[:, None] * hidden, error[:, None]], 1)
        return state - control * np.clip(gradient, -1e3, 1e3)

    def signal(self, state: Array) -> Array:
        inputs, targets = _items()
        _, error = self._errors(state, inputs[None], targets[None])
        loss: Array = np.square(error).mean(1)
        return np.log(loss + 1e-12)

    def crossed(self, signal: Array) -> NDArray[np.bool_]:
        return signal > self.threshold

    def _errors(self, state: Array, x: Array, targets: Array) -> tuple[Array, Array]:
        """Hidden units [runs, items, width] and output less target [runs, items]."""
        w = self.width
        first, second, bias, out = (state[:, None, i * w : (i + 1) * w] for i in range(4))
        hidden = np.tanh(x[..., :1] * first + x[..., 1:] * second + bias)
        return hidden, (hidden * out).sum(-1) + state[:, -1:] - targets


@cache
def _items() -> tuple[Array, Array]:
    generator = np.random.default_rng(1977)
    inputs = generator.standard_normal((32, 2))
    return inputs, np.sin(2 * inputs[:, 0]) + 0.3 * inputs[:, 1] + 0.3 * generator.standard_normal(32)


SYSTEMS: Mapping[str, System] = {
    "allee": Allee("Allee birth and death, 200 points in 5 return times", 1, 200, 50_000, 184.0, 202.075),
    "allee-long": Allee("the same, 500 points in 60 return times", 5, 500, 40_000, 184.0, 202.075),
    "may": May("May's grazed population, 200 steps", 1, 200, 40_000, 1.55, 1.890),
    "training": Training(
        "loss of small networks under SGD, 200 points in 1,000 steps", 5, 200, 6_000, 0.25, 0.45, -1.0
    ),
}


def windows(system: System, runs: int, share: float, seed: int) -> dict[str, Array]:
    """Windows [windows, points] of three kinds, oldest value first.

    "chance": the last ones before a run at constant control crosses. "stationary": of such runs at one fixed time,
    after as long a time to settle, whatever becomes of them later. "drifted": the last ones before the crossing of
    runs, half as many, whose control moves from rest to critical within one window's length, after twice that time to
    settle. A `share` below 1 shortens the windows and the wait.
    """
    system = replace(system, points=max(int(share * system.points), min(system.points, 30)))
    length = system.every * system.points
    steps = max(int(share * system.steps), 3 * length)
    chance, stationary = _simulate(system, runs, steps, np.random.default_rng((seed, 1)), lambda t: system.rest)
    slope = (system.critical - system.rest) / length
    drift = _simulate(
        system,
        runs // 2,
        8 * length,
        np.random.default_rng((seed, 2)),
        lambda t: system.rest + slope * max(0, t - 2 * length),
    )
    return {"chance": chance, "stationary": stationary, "drifted": drift[0]}


def _simulate(
    system: System, runs: int, steps: int, generator: np.random.Generator, control: Callable[[int], float]
) -> tuple[Array, Array]:
    """Windows before the crossings, and windows of the runs that had not crossed at a fixed time."""
    points, taken = system.points, 0
    ring, state = np.empty((points, runs)), system.start(runs, generator)
    waiting, before, stationary = np.ones(runs, dtype=bool), [], np.empty((0, points))
    for t in range(steps):
        state = system.step(state, control(t), generator)
        if t % system.every:
            continue
        signal = system.signal(state)
        crossed = system.crossed(signal)
        # a run that crosses before it has settled gives no window
        if taken > 2 * points and (waiting & crossed).any():
            before.append(_ordered(ring[:, waiting & crossed], taken))
        ring[taken % points], taken = signal, taken + 1
        if taken == 2 * points:
            stationary = _ordered(ring[:, ~crossed], taken)
        if taken >= 2 * points:
            waiting &= ~crossed
        if not waiting.any():
            break
    return np.concatenate([np.empty((0, points)), *before]), stationary


def _ordered(ring: Array, taken: int) -> Array:
    return np.roll(ring, -(taken % len(ring)), axis=0).T
