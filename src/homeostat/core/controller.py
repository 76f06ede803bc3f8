"""The contract of a controller: a control law sets a knob according to a vital."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from homeostat.core.component import Component, integer, option
from homeostat.core.treatment import State


@dataclass(frozen=True, kw_only=True)
class Controller(Component, abstract=True):
    """Reads a vital and sets a knob. The control law is a pure function of (error, state, gains).

    Settings:
        vital: name of the vital or of a gauge of the user. A layer, or one of several networks, may follow after "@"
            ("dormant-units@fc1", "active-units@critic").
        knob: "treatment-name.knob", "lr" (the optimizer's learning rate; all groups are scaled by the same factor) or
            the name of a dial of the user.
        every: optimizer steps from one control step to the next.
        over: with several layers, whether to read the "worst" or their "mean".
    """

    kind: ClassVar[str] = "controller"
    vital: str = option("")
    knob: str = option("")
    every: int = integer(100, unit="steps")
    over: str = option("worst", choices=("worst", "mean"))

    def init(self, value: Tensor) -> State:
        """Initial state for a knob at `value`, so that the knob does not jump."""
        raise NotImplementedError

    def step(self, measured: Tensor, state: State) -> tuple[Tensor, State]:
        """The next value of the knob, within its limits, and the next state. A NaN measurement changes nothing."""
        raise NotImplementedError


def gains(component: Controller) -> Mapping[str, Tensor]:
    """The settings of the controller that are knobs, as tensors."""
    return component.knobs()
