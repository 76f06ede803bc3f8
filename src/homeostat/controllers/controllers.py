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

_HOUSE = "house choice"
_PID = Cite("Astrom, Hagglund", 2006, "Advanced PID Control", where="ISA")


@dataclass(frozen=True, kw_only=True)
class LimitedController(Controller, abstract=True):
    """Set point and limits shared by every controller here.

    Settings:
        set_point: value of the vital that is aimed for.
        low, high: limits of the knob.
        slew: largest move of the knob per control step.
        when_high: what a vital above the set point does to the knob: "raise" or "lower" it.

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
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise BadSetting(f"{self.name}.every must be a whole number of steps of at least 1, got {self.every!r}")

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
        "settles": "proportional action alone leaves a steady offset of the order of 1 / kp; use pi to remove it",
    }
    kp: float = knob(0.1, low=0.0, neutral=0.0, unit="knob per vital", source=_HOUSE)

    def law(self, error: Tensor, state: State, settings: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        return laws.proportional(error, state, settings)


@dataclass(frozen=True, kw_only=True)
class PI(LimitedController):
    """knob <- knob + kp * (error - previous error) + ki * error: no windup, no bump at the start.

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
        "settles": "a switch has two positions only, so the vital cycles around the dead band",
    }
    band: float = knob(0.0, low=0.0, unit="unit of the vital", source=_HOUSE)

    def law(self, error: Tensor, state: State, settings: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        return laws.hysteresis(error, state, settings)


@dataclass(frozen=True, kw_only=True)
class DualAscent(LimitedController):
    """Multiplier of the constraint vital <= set_point: knob <- [knob + rate * (vital - set_point)].

    With `optimistic`, the step looks one error ahead, which damps oscillation.

    >>> DualAscent(rate=0.5, high=10.0).step(torch.tensor(2.0), DualAscent().init(torch.tensor(0.0)))[0].item()
    1.0
    """

    cite = (
        Cite("Arrow, Hurwicz, Uzawa", 1958, "Studies in Linear and Non-Linear Programming", where="Stanford"),
        Cite("Daskalakis, Ilyas, Syrgkanis, Zeng", 2018, "Training GANs with Optimism", "1711.00141"),
    )
    rate: float = knob(0.05, low=0.0, neutral=0.0, unit="knob per vital per control step", source=_HOUSE)
    optimistic: bool = option(False, choices=(True, False))

    def law(self, error: Tensor, state: State, settings: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        return laws.dual_ascent(error, state, settings, optimistic=self.optimistic)


@dataclass(frozen=True, kw_only=True)
class Multiplicative(LimitedController):
    """knob <- knob * exp(rate * error), at most a factor of `factor` per control step. For positive knobs.

    The adaptive penalty of PPO (Schulman et al. 2017, arXiv:1707.06347, section 4) is its saturated form.

    >>> Multiplicative(rate=100.0).step(torch.tensor(1.0), Multiplicative().init(torch.tensor(0.25)))[0].item()
    0.5
    """

    cite = Cite("Schulman, Wolski, Dhariwal, Radford, Klimov", 2017, "Proximal Policy Optimization", "1707.06347")
    low: float = knob(1e-8, low=0.0, unit="unit of the knob", source=_HOUSE)
    rate: float = knob(0.2, low=0.0, neutral=0.0, unit="1/vital per control step", source=_HOUSE)
    factor: float = knob(2.0, low=1.0, unit="", source="arXiv:1707.06347")

    def law(self, error: Tensor, state: State, settings: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        return laws.multiplicative(error, state, settings)
