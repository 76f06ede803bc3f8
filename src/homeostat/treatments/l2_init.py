"""L2 Init: regenerative regularisation towards the initial parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from homeostat.core.component import Cite, knob
from homeostat.core.edits import AddGradient, Edit
from homeostat.core.readings import Reading
from homeostat.core.treatment import Stage, State, Treatment, View
from homeostat.treatments.shapes import beside


@dataclass(frozen=True, kw_only=True)
class L2Init(Treatment):
    """Add the gradient of strength * ||theta - theta_0||^2 to the loss's gradient, theta_0 the initial parameters.

        g <- g + 2 * strength * (theta - theta_0)

    for every parameter that has a gradient this step (one that the loss did not reach stays where it is). theta_0 is
    what the parameters were when the run was attached.

    No state. The optimizer sees the penalty as part of the gradient, as if it had been written into the loss; with
    Adam this is not the same as decoupled decay.

    Source: Kumar, Marklund, Van Roy (2023), arXiv:2308.11958, section 4. The paper sweeps the strength over powers of
    ten from 1e-2 to 1e-5.

    >>> L2Init(strength=1e-2).name
    'l2-init'
    """

    name = "l2-init"
    cite = Cite(
        "Kumar, Marklund, Van Roy",
        2023,
        "Maintaining Plasticity in Continual Learning via Regenerative Regularization",
        "2308.11958",
    )
    stage = Stage.GRADIENT
    reads = frozenset({Reading.GRADIENTS, Reading.INITIAL})

    strength: float = knob(
        1e-3,
        low=0.0,
        high=10.0,
        neutral=0.0,
        unit="loss per squared weight",
        source="arXiv:2308.11958, value not checked there",
    )

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        edits = []
        for name in view.gradients:
            now = view.parameters[name]
            edits.append(AddGradient(name, 2 * beside(knobs["strength"], now) * (now - view.initial[name])))
        return edits, state
