"""The contract of a controller: a vital drives a knob through a control law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from homeostat.core.component import Component, option
from homeostat.core.treatment import State


@dataclass(frozen=True, kw_only=True)
class Controller(Component, abstract=True):
    """Reads a vital, turns a knob. The law is a pure function of (error, state, gains).

    Settings:
        vital: name of the vital read; a layer may follow after "@" ("dormant-units@fc1"), else the worst layer is used.
        knob: "treatment-name.knob" or "lr" (the optimizer's learning rate, every group scaled alike).
        every: fixed cadence in optimizer steps.
    """

    kind: ClassVar[str] = "controller"
    vital: str = option("")
    knob: str = option("")
    every: int = option(100)

    def init(self, value: Tensor) -> State:
        """State that continues from the knob's present `value` without a jump (bumpless)."""
        raise NotImplementedError

    def step(self, measured: Tensor, state: State) -> tuple[Tensor, State]:
        """The knob's next value, clamped and rate-limited, and the next state. A NaN measurement changes nothing."""
        raise NotImplementedError


def gains(component: Controller) -> Mapping[str, Tensor]:
    """The controller's own knobs as tensors."""
    return component.knobs()
