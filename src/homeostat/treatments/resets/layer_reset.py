"""Layer reset: draw the last layers anew at regular intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, integer, knob
from homeostat.core.edits import ClearMoments, Edit, SetValues
from homeostat.core.errors import Refused
from homeostat.core.treatment import Periodic, Stage, State, View
from homeostat.treatments.resets.unit_resets import kept
from homeostat.treatments.shapes import lead


@dataclass(frozen=True, kw_only=True)
class LayerReset(Periodic):
    """Draw the last `layers` layers anew from their initial distributions every `every` optimizer steps.

    A layer is a module with a weight matrix or kernel, in the order of the network's parameters; its bias is reset with
    it. Weights whose initial distribution is not known, and norms, are not changed. With `layers` at least the number
    of layers the whole network is reset.

    The method is meant for agents with a replay buffer: the buffer teaches the new layers what the old ones knew.

    No state. The optimizer's moments of the reset parameters are cleared; in a single run their step counts too, so
    Adam starts on them as on new parameters.

    Raises:
        Refused: no weight has a known initial distribution.

    Source: Nikishin, Schwarzer, D'Oro, Bacon and Courville (2022), arXiv:2205.07802. The intervals and layers of
    their experiments were not checked; the defaults are our choice.

    >>> LayerReset(layers=2, every=20_000).layers
    2
    """

    cite = Cite(
        "Nikishin, Schwarzer, D'Oro, Bacon and Courville",
        2022,
        "The Primacy Bias in Deep Reinforcement Learning",
        "2205.07802",
        "ICML",
    )
    stage = Stage.UPDATE
    optimizer_state = "cleared for the reset layers; in a single run their step counts too"
    trial: ClassVar[Mapping[str, Any]] = {"every": 5}

    layers: int = knob(1, low=0, high=1024, neutral=0, unit="layers", source="our choice", integer=True)
    every: int = integer(20_000, unit="steps")

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        if not _layers(view):
            raise Refused(self.name, "the network", "no weight has a known initial distribution")
        return {}

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        edits: list[Edit] = []
        for place, names in enumerate(reversed(_layers(view))):
            chosen = knobs["layers"].cpu() > place  # [*R]
            if not bool(chosen.any()):
                break
            for name in names:
                value = view.parameters[name]
                fresh = view.fresh[name].sample(view.draw, name, value)
                if lead(view) == 0 or bool(chosen.all()):
                    everywhere = torch.ones_like(value, dtype=torch.bool)
                    edits += [SetValues(name, fresh, everywhere), ClearMoments(name, restart=lead(view) == 0)]
                else:
                    some = tuple(r for r in range(len(chosen)) if bool(chosen[r]))
                    edits += [SetValues(name, fresh[list(some)], replicas=some, averaged=True)]
                    edits += [ClearMoments(name, replicas=some)]
        return edits, state

    def effect(self, before: View, edits: Sequence[Edit], after: View) -> str | None:
        return kept(edits, after)


def _layers(view: View) -> list[list[str]]:
    """The parameters of every layer with a known initial distribution, the first layer first."""
    heads = [name for name in view.weights() if name in view.fresh]
    paths = [name.rpartition(".")[0] for name in heads]
    own = [name for name in view.fresh if name in view.parameters and name not in view.norms]
    return [[n for n in own if n.rpartition(".")[0] == path] for path in dict.fromkeys(paths)]
