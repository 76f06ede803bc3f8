"""Vitals of R stacked replicas, every so many steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from homeostat.core.errors import Refused
from homeostat.core.snapshot import Reading, Readings
from homeostat.core.vital import Vital
from homeostat.shell.run.settings import Settings
from homeostat.shell.unit_graph.activation_points import MAX_ROWS

OF_ONE_NETWORK = {
    Reading.PROBE: "it reads a probe, which belongs to one network",
    Reading.TASKS: "it reads evaluation items through functions of one network",
    Reading.TWIN: "it compares two networks",
}
Series = dict[str, dict[str, list[tuple[int, Tensor]]]]
"""vital -> layer -> (step, values [R] on the CPU), oldest first."""


class StackedVitals:
    """Measures the vitals of a stack: after the first step, and then every so many.

    Args:
        vitals: "default", "all", or vitals and names. With "default" and "all", vitals that read what a fleet does not
            have are listed in `not_measured`.
        every: steps from one measurement to the next.

    Attributes:
        series: what was measured.
        not_measured: vital -> reason.

    Raises:
        Refused: a vital that was asked for by name and cannot be measured on a stack.
        UnknownName: there is no such vital.
    """

    def __init__(self, vitals: str | Sequence[str | Vital], every: int) -> None:
        by_name = not isinstance(vitals, str)
        chosen = Settings(vitals=vitals if isinstance(vitals, str) else tuple(vitals)).selected_vitals()
        self.every, self.not_measured = every, dict[str, str]()
        self.vitals: list[Vital] = []
        for vital in chosen:
            why = next((OF_ONE_NETWORK[r] for r in vital.reads if r in OF_ONE_NETWORK), None)
            if why is None:
                self.vitals.append(vital)
            elif by_name:
                raise Refused(vital.name, "a fleet", why)
            else:
                self.not_measured[vital.name] = why
        self.series: Series = {}
        self.nonlinearity: dict[str, str] = {}
        self.initial: dict[str, Tensor] = {}
        self._reads = {reading for vital in self.vitals for reading in vital.reads}
        self._needed = max(
            (getattr(v, "min_samples", 1) for v in self.vitals if Reading.ACTIVATIONS in v.reads), default=1
        )
        self._lead, self._window = 1, list[dict[str, Tensor]]()
        self._before: dict[str, Tensor] = {}
        self._loss: Tensor | None = None
        self._losses = 0

    def due(self, step: int) -> bool:
        """Whether the vitals are measured at the end of the step with this number."""
        return bool(self.vitals) and (step == 1 or step % self.every == 0)

    def wants_activations(self, step: int) -> bool:
        """Whether activations of this step are needed: a due one, or one of a few before it if batches are small."""
        return Reading.ACTIVATIONS in self._reads and (step == 1 or -step % self.every < self._lead)

    def wants_gradients(self, step: int) -> bool:
        """Whether gradients are read at this step."""
        return Reading.GRADIENTS in self._reads and self.due(step)

    def before_update(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        """Keep the weights before the update of a due step, and the first ones."""
        if Reading.INITIAL in self._reads and not self.initial:
            self.initial = {n: p.detach().clone() for n, p in parameters.items()}
        if self.due(step) and self._reads & {Reading.WEIGHTS, Reading.UPDATES}:
            self._before = {n: p.detach().clone() for n, p in parameters.items()}

    def after_step(
        self,
        step: int,
        activations: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        losses: Tensor,
    ) -> None:
        """Take the readings of a step; measure if it is a due one. The loss is the mean since the last measurement."""
        if not self.vitals:
            return
        self._loss = losses.double() if self._loss is None else self._loss + losses
        self._losses += 1
        if self.wants_activations(step):
            self._window.append(dict(activations))
        if not self.due(step):
            return
        layers = dict.fromkeys(layer for part in self._window for layer in part)
        joined = {k: torch.cat([part[k] for part in self._window if k in part], 1)[:, :MAX_ROWS] for k in layers}
        if (rows := max((h.shape[1] for h in joined.values()), default=0)) and self._window:
            a_step = max(rows // len(self._window), 1)
            self._lead = min(max(1, -(-self._needed // a_step)), self.every)
        self._window = []
        updates = {n: parameters[n].detach() - w for n, w in self._before.items()}
        readings = Readings(
            step=step,
            activations=joined,
            nonlinearity=self.nonlinearity,
            weights=self._before,
            gradients=gradients,
            updates=updates,
            loss=self._loss / self._losses,
            initial=self.initial,
            replica_axes=1,
        )
        self._before, self._loss, self._losses = {}, None, 0
        with torch.no_grad():
            for vital in self.vitals:
                for layer, value in vital(readings).items():
                    place = self.series.setdefault(vital.name, {}).setdefault(layer, [])
                    place.append((step, value.detach().double().cpu()))

    def state_dict(self) -> dict[str, Any]:
        """What was measured, and the open window."""
        return {
            "series": {v: {layer: list(points) for layer, points in each.items()} for v, each in self.series.items()},
            "initial": dict(self.initial),
            "lead": self._lead,
            "window": [dict(part) for part in self._window],
            "loss": (self._loss, self._losses),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.series = {v: {la: list(points) for la, points in each.items()} for v, each in state["series"].items()}
        self.initial, self._lead = dict(state["initial"]), state["lead"]
        self._window = [dict(part) for part in state["window"]]
        self._loss, self._losses = state["loss"]
