"""A treatment that is applied to a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from homeostat.core.edits import Edit, SetValues
from homeostat.core.treatment import Stage, State, Treatment


@dataclass(eq=False)
class AppliedTreatment:
    """A treatment with its current knobs and state.

    Args:
        begun: whether it has been initialised with the network, so that `state` is valid.
        acted: number of steps at which it planned edits.
        resets: layer -> number of resets of each unit [H] since the last journal entry, int64.
    """

    treatment: Treatment
    knobs: dict[str, Tensor]
    state: State = field(default_factory=dict)
    begun: bool = False
    acted: int = 0
    resets: dict[str, Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.treatment.name

    def due(self, stage: Stage, step: int) -> bool:
        """Whether it acts at this stage of the step with this number."""
        return self.begun and self.treatment.stage == stage and (stage == Stage.BOUNDARY or self.treatment.due(step))

    def count_resets(self, edit: Edit) -> None:
        """Add the units that an edit resets to `resets`."""
        if isinstance(edit, SetValues) and edit.units is not None:
            total = edit.units.detach().to(torch.int64)
            before = self.resets.get(edit.target)
            self.resets[edit.target] = total if before is None else before + total

    def state_dict(self) -> dict[str, Any]:
        """Settings, knobs, state and counts."""
        return {
            "settings": self.treatment.settings(),
            "knobs": {k: float(v) for k, v in self.knobs.items()},
            "begun": self.begun,
            "state": dict(self.state),
            "acted": self.acted,
            "resets": dict(self.resets),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; the settings are not changed."""
        for name, value in state["knobs"].items():
            self.knobs[name].fill_(value)
        self.state, self.begun = dict(state["state"]), state["begun"]
        self.acted, self.resets = state["acted"], dict(state["resets"])
