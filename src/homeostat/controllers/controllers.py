"""Controllers: a vital, a set point, a control law and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.controllers import laws
from homeostat.core.component import Cite, knob, option
from homeostat.core.controller import Controller, gains
from homeostat.core.errors import BadSetting
from homeostat.core.treatment import State

_HOUSE = "our choice"
_PID = Cite("Åström and Hägglund", 2006, "Advanced PID Control", where="ISA")


@dataclass(frozen=True, kw_only=True)
class LimitedController(Controller, abstract=True):
    """Set point and limits shared by every controller here.

    Settings:
        set_point: desired value of the vital.
        low, high: limits of the knob.
        slew: largest change of the knob per control step.
        when_high: whether a vital above the set point must "raise" or "lower" the knob.

    A measurement that is NaN or infinite changes nothing.
    """

    set_point: float = knob(0.0, low=-1e30, unit="unit of the vital", source=_HOUSE)
    low: float = knob(0.0, low=-1e30, unit="unit of the knob", source=_HOUSE)
    high: float = knob(1.0, low=-1e30, unit="unit of the knob", source=_HOUSE)
    slew: float = knob(1e30, unit="unit of the knob per control step", source=_HOUSE)
    when_high: str = option("raise", choices=("raise", "lower"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise BadSetting(f"{self.name}: low ({self.low:g}) must not be above high ({self.high:g})")

    def init(self, value: Tensor) -> State:
        return laws.start(value, gains(self))

    def step(self, measured: Tensor, state: State) -> tuple[Tensor, State]:
        settings = {name: gain.to(measured.device) for name, gain in gains(self).items()}
        error = measured.to(torch.float64) - settings["set_point"]
        return self.law(error if self.when_high == "raise" else -error, state, settings)

    def law(self, error: Tensor, state: State, settings: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        """The control law; see `homeostat.controllers.laws`."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Proportional(LimitedController):
    """knob = starting value + kp * error.

    >>> Proportional(kp=2.0).step(torch.tensor(0.125), Proportional().init(torch.tensor(0.25)))[0].item()
    0.5
    """

    cite = _PID
    declared: ClassVar[Mapping[str, str]] = {
        "settles": "proportional action alone leaves a steady offset of the order of 1 / kp; pi removes it",
    }
    kp: float = knob(0.1, low=0.0, neutral=0.0, unit="knob per vital", source=_HOUSE)

    def law(self, error: Tensor, state: State, settings: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        return laws.proportional(error, state, settings)


@dataclass(frozen=True, kw_only=True)
class PI(LimitedController):
    """knob <- knob + kp * (error - previous error) + ki * error. No windup, and no jump at the start.

    >>> PI(set_point=0.25, ki=0.5).step(torch.tensor(0.5), PI().init(torch.tensor(0.25)))[0].item()
    0.375
    """

    cite = _PID
    kp: float = knob(0.1, low=0.0, neutral=0.0, unit="knob per vital", source=_HOUSE)
    ki: float = knob(0.05, low=0.0, neutral=0.0, unit="knob per vital per control step", source=_HOUSE)

    def law(self, error: Tensor, state: State, settings: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        return laws.pi(error, state, settings)


@dataclass(frozen=True, kw_only=True)
class Hysteresis(LimitedController):
    """A switch between `low` and `high` with a dead band of +- `band` around the set point.

    >>> Hysteresis(set_point=0.5, band=0.1).step(torch.tensor(0.7), Hysteresis().init(torch.tensor(0.0)))[0].item()
    1.0
    """

    cite = Cite("Tsypkin", 1984, "Relay Control Systems", where="Cambridge University Press")
    declared: ClassVar[Mapping[str, str]] = {
        "settles": "a switch has only two positions, so the vital cycles around the dead band",
    }
    band: float = knob(0.0, low=0.0, unit="unit of the vital", source=_HOUSE)

    def law(self, error: Tensor, state: State, settings: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        return laws.hysteresis(error, state, settings)


@dataclass(frozen=True, kw_only=True)
class DualAscent(LimitedController):
    """Multiplier of the constraint vital <= set_point: knob <- [knob + rate * (vital - set_point)].

    With `optimistic`, the step extrapolates the error by one step, which damps oscillation.

    >>> DualAscent(rate=0.5, high=10.0).step(torch.tensor(2.0), DualAscent().init(torch.tensor(0.0)))[0].item()
    1.0
    """

    cite = (
        Cite("Arrow, Hurwicz and Uzawa", 1958, "Studies in Linear and Non-Linear Programming", where="Stanford"),
        Cite("Daskalakis, Ilyas, Syrgkanis and Zeng", 2018, "Training GANs with Optimism", "1711.00141"),
    )
    rate: float = knob(0.05, low=0.0, neutral=0.0, unit="knob per vital per control step", source=_HOUSE)
    optimistic: bool = option(False, choices=(True, False))

    def law(self, error: Tensor, state: State, settings: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        return laws.dual_ascent(error, state, settings, optimistic=self.optimistic)


@dataclass(frozen=True, kw_only=True)
class Multiplicative(LimitedController):
    """knob <- knob * exp(rate * error), at most a factor of `factor` per control step. For positive knobs.

    The adaptive penalty of PPO (Schulman et al. 2017, arXiv:1707.06347, section 4) always changes by the full factor.

    >>> Multiplicative(rate=100.0).step(torch.tensor(1.0), Multiplicative().init(torch.tensor(0.25)))[0].item()
    0.5
    """

    cite = Cite.of("ppo")
    low: float = knob(1e-8, low=0.0, unit="unit of the knob", source=_HOUSE)
    rate: float = knob(0.2, low=0.0, neutral=0.0, unit="1/vital per control step", source=_HOUSE)
    factor: float = knob(2.0, low=1.0, unit="", source="arXiv:1707.06347")

    def law(self, error: Tensor, state: State, settings: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        return laws.multiplicative(error, state, settings)
