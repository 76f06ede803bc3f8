"""Controllers of R stacked replicas: each replica has its own knob."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from homeostat.core.component import find
from homeostat.core.controller import Controller
from homeostat.core.dial import LEARNING_RATE
from homeostat.core.errors import BadInput
from homeostat.core.treatment import State
from homeostat.fleet.measuring import Series
from homeostat.fleet.optimizers import StackedOptimizer
from homeostat.fleet.treating import StackedTreatments


@dataclass(eq=False)
class StackedController:
    """A controller and its state [R]."""

    controller: Controller
    state: State = field(default_factory=dict)


class StackedControllers:
    """The controllers of a stack. They read vitals, and set "lr" or a knob "treatment.knob".

    Raises:
        BadInput: a controller whose vital is not measured, or whose knob does not exist; it is named.
    """

    def __init__(
        self,
        controllers: Sequence[Controller],
        vitals: Sequence[str],
        treatments: StackedTreatments,
        optimizers: Sequence[StackedOptimizer],
        replicas: int,
    ) -> None:
        self.applied = [StackedController(controller) for controller in controllers]
        self._treatments, self._optimizers, self._replicas = treatments, optimizers, replicas
        for controller in controllers:
            if controller.vital.partition("@")[0] not in vitals:
                raise BadInput(f"fleet: {controller.name} reads {controller.vital!r}, which is not measured")
            self._knob(controller.knob)

    def turn(self, step: int, series: Series) -> None:
        """Run the controllers that are due at the end of this step."""
        for one in self.applied:
            if step % one.controller.every:
                continue
            measured = latest(series, one.controller)
            if measured is None:
                continue
            if not one.state:
                one.state = one.controller.init(self._knob(one.controller.knob).expand(self._replicas).clone())
            value, one.state = one.controller.step(measured, one.state)
            self._set(one.controller.knob, value)

    def _knob(self, name: str) -> Tensor:
        if name == LEARNING_RATE:
            return torch.as_tensor(self._optimizers[0].settings["lr"], dtype=torch.float64)
        return self._holder(name)[name.partition(".")[2]]

    def _holder(self, name: str) -> dict[str, Tensor]:
        owner, _, knob = name.partition(".")
        for one in self._treatments.applied:
            if one.treatment.name == owner and knob in one.knobs:
                return one.knobs
        raise BadInput(f"fleet: there is no knob {name!r} for a controller")

    def _set(self, name: str, value: Tensor) -> None:
        if name != LEARNING_RATE:
            self._holder(name)[name.partition(".")[2]] = value
            return
        factor = value / self._knob(name).clamp(min=1e-30)
        for optimizer in self._optimizers:  # all groups by the same factor
            optimizer.settings["lr"] = torch.as_tensor(optimizer.settings["lr"], dtype=torch.float64) * factor
        self._optimizers[0].settings["lr"] = value

    def state_dict(self) -> list[dict[str, Any]]:
        """State of every control law."""
        return [dict(one.state) for one in self.applied]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Continue from `state_dict`."""
        for one, saved in zip(self.applied, state, strict=True):
            one.state = dict(saved)


def latest(series: Series, controller: Controller) -> Tensor | None:
    """The latest value [R] of a controller's vital over the layers that it names; NaN where it is missing."""
    name, _, part = controller.vital.partition("@")
    layers = series.get(name, {})
    found = [points for layer, points in layers.items() if not part or f"{layer}.".startswith(f"{part}.")]
    if not found:
        return None
    values = torch.stack([points[-1][1] for points in found])
    if controller.over == "mean":
        return values.nanmean(0)
    if find("vital", name).worse == "lower":
        return -_largest(-values)
    return _largest(values)


def _largest(values: Tensor) -> Tensor:
    """The largest over layers that is not NaN."""
    top = values.nan_to_num(nan=-torch.inf).amax(0)
    return torch.where(values.isnan().all(0), torch.nan, top)
