"""L2 Init: regularisation towards the initial parameters."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from homeostat.core.component import Cite, knob
from homeostat.core.treatment import State, View
from homeostat.treatments.regularization.penalty import GradientPenalty


@dataclass(frozen=True, kw_only=True)
class L2Init(GradientPenalty):
    """Add the gradient of strength * ||theta - theta_0||^2 to the loss's gradient.

        g <- g + 2 * strength * (theta - theta_0)

    theta_0 are the parameters at the time of `attach`. A parameter without a gradient in this step is not changed.

    No state. The optimizer receives the penalty as part of the gradient, as if it were a term of the loss. With Adam
    this differs from decoupled decay.

    Source: Kumar, Marklund, Van Roy (2023), arXiv:2308.11958, section 4. The paper sweeps the strength over powers of
    ten from 1e-2 to 1e-5.

    >>> L2Init(strength=1e-2).name
    'l2-init'
    """

    name = "l2-init"
    cite = Cite.of("l2-init")

    strength: float = knob(
        1e-3,
        low=0.0,
        high=10.0,
        neutral=0.0,
        unit="loss per squared weight",
        source="arXiv:2308.11958, value not checked there",
    )

    def gradient(self, name: str, view: View, state: State) -> Tensor:
        return 2 * (view.parameters[name] - view.initial[name])
