"""ReDo: reset dormant units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob, option
from homeostat.core.edits import Edit
from homeostat.core.snapshot import Reading
from homeostat.core.tensors import broadcast_knob
from homeostat.core.treatment import Periodic, Stage, State, View
from homeostat.core.units import UnitGroup
from homeostat.treatments.resets.unit_resets import kept, reset_edits, touched, treatable


@dataclass(frozen=True, kw_only=True)
class ReDo(Periodic):
    """Reset the units whose normalised activation is at most `threshold`, every `every` steps.

        s_i = mean_x |h_i(x)| / (mean_j mean_x |h_j(x)| + 1e-9)        (eq. 1)

    over the training batch of that step, with the activations from before the update, and over positions for a
    convolution. The authors' code (dopamine) measures them after the update, on a separate batch. A reset unit gets
    incoming weights from the layer's initial distribution, bias 0, outgoing weights 0 and cleared optimizer moments of
    both. A unit with score 0 contributed nothing, so resetting it does not change the network's output on that batch,
    except before a norm over several units (LayerNorm, GroupNorm, RMSNorm), whose statistics include the fresh unit.
    Units with a non-finite score are not reset. A negative threshold switches the treatment off.

    Settings:
        threshold: tau, fraction of the layer's mean activation. 0.025 is the paper's value for DQN; the default of the
            authors' code (dopamine) is 0.0.
        every: optimizer steps between two resets. 1000 is the paper's value for DQN; the default of the authors' code
            is 200,000.
        linear: also reset units without a nonlinearity (attention values, LoRA ranks).

    Shapes: activations [*R, N, H]. No state.

    Raises:
        Refused: the network has no unit group with trainable weights.

    Source: Sokar, Agarwal, Castro, Evci (2023), arXiv:2302.12902, algorithm 1.

    >>> ReDo(every=500).due(1000)
    True
    """

    name = "redo"
    cite = Cite.of("dormant-neurons")
    stage = Stage.UPDATE
    reads = frozenset({Reading.ACTIVATIONS})
    needs_units = True
    trial: ClassVar[Mapping[str, Any]] = {"threshold": 0.1, "every": 3}
    optimizer_state = "moments cleared for the incoming and outgoing weights of reset units"

    threshold: float = knob(
        0.025,
        low=-1.0,
        high=1.0,
        neutral=-1.0,
        unit="fraction of the layer's mean activation",
        source="arXiv:2302.12902, DQN; the authors' code has 0.0",
    )
    linear: bool = option(False, choices=(True, False))

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        treatable(self.name, view, self.linear)
        return {}

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        chosen: dict[UnitGroup, Tensor] = {}
        for group in treatable(self.name, view, self.linear):
            if group.layer in view.activations:
                score = dormancy(view.activations[group.layer])
                chosen[group] = score <= broadcast_knob(knobs["threshold"], score)
        chosen = touched(chosen)
        return reset_edits(view, chosen), state

    def effect(self, before: View, edits: Sequence[Edit], after: View) -> str | None:
        """Incoming weights are the fresh ones and outgoing weights are zero once the step is over."""
        return kept(edits, after)


def dormancy(activations: Tensor) -> Tensor:
    """Normalised activation score of every unit (eq. 1): [*R, N, H] -> [*R, H], with mean 1; 0 if the unit is dead."""
    size = activations.abs().mean(-2, dtype=torch.promote_types(activations.dtype, torch.float32))
    return size / (size.mean(-1, keepdim=True) + 1e-9)
