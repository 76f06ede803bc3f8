"""Penalties whose gradient is added to the loss's gradient, as if they were terms of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from homeostat.core.component import knob
from homeostat.core.edits import AddGradient, Edit
from homeostat.core.snapshot import Reading
from homeostat.core.tensors import broadcast_knob
from homeostat.core.treatment import Stage, State, Treatment, View


@dataclass(frozen=True, kw_only=True)
class GradientPenalty(Treatment, abstract=True):
    """Add strength * (gradient of a penalty R) to the loss's gradient. A subclass defines the gradient of R.

    Parameters without a gradient in this step are not changed.

    Settings:
        strength: factor of the penalty in the loss.
    """

    stage = Stage.GRADIENT
    reads = frozenset({Reading.GRADIENTS, Reading.INITIAL})

    strength: float = knob(
        1e-3,
        low=0.0,
        high=10.0,
        neutral=0.0,
        unit="loss per unit of R",
        source="our choice, not checked in the paper",
    )

    def gradient(self, name: str, view: View, state: State) -> Tensor | None:
        """The gradient of R with respect to one parameter, None if R does not depend on it.

        It may write what the next step needs into `state`, under a key that begins with the parameter's name.
        """
        raise NotImplementedError

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        state, edits = dict(state), list[Edit]()
        for name in view.gradients:
            if (pull := self.gradient(name, view, state)) is not None:
                edits.append(AddGradient(name, broadcast_knob(knobs["strength"], pull) * pull))
        return edits, state
