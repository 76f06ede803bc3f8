"""Shrink and perturb: scale every weight down and add a small fresh initialisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from homeostat.core.component import Cite, integer, knob, option
from homeostat.core.edits import Edit, SetValues
from homeostat.core.errors import Refused
from homeostat.core.tensors import broadcast_knob
from homeostat.core.treatment import Fresh, Periodic, Stage, State, View


@dataclass(frozen=True, kw_only=True)
class ShrinkAndPerturb(Periodic):
    """Set w <- shrink * w + perturb * w' every `every` optimizer steps, with w' a fresh draw.

    `noise` selects w':

        initial    a draw from the parameter's own initial distribution (Ash and Adams' code uses a second network)
        normal     a standard normal draw, so `perturb` is a standard deviation (the per-step form of Dohare et al.
                   2024, in which weight decay shrinks)

    Parameters of normalisation layers are not changed. With noise "initial", parameters without a known initial
    distribution are not changed either.

    The defaults are for an application at every step. Since perturb^2 = 1 - shrink^2, a weight without gradient keeps
    its initial variance and loses its value over about 1 / (1 - shrink) = 10,000 applications. For one application per
    task use `ShrinkAndPerturbAtBoundaries`.

    No state. The optimizer's moments are kept: they describe the gradient, which a small change of the weights hardly
    changes.

    Raises:
        Refused: no parameter outside normalisation layers can be treated.

    Source: Ash and Adams (2020), arXiv:1910.08475, section 4; per step: Dohare et al. (2024), arXiv:2306.13812.

    >>> ShrinkAndPerturb.neutral().settings()["shrink"]
    1.0
    """

    cite = (
        Cite("Ash and Adams", 2020, "On Warm-Starting Neural Network Training", "1910.08475", "NeurIPS"),
        Cite.of("continual-backprop"),
    )
    entries = ()  # the second paper has it as a baseline only
    stage = Stage.UPDATE
    optimizer_state = "untouched: the moments describe the gradient, which hardly changes"

    shrink: float = knob(
        1 - 1e-4,
        low=0.0,
        high=1.0,
        neutral=1.0,
        unit="factor per application",
        source="our choice: initial variance kept over 1e4 steps",
    )
    perturb: float = knob(
        1.414e-2,
        low=0.0,
        high=10.0,
        neutral=0.0,
        unit="fraction of a fresh draw per application",
        source="our choice: initial variance kept over 1e4 steps",
    )
    every: int = integer(1, unit="steps")
    noise: str = option("initial", choices=("initial", "normal"))

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        if not self._names(view):
            raise Refused(self.name, "the network", "no trainable parameter has a known initial distribution")
        return {}

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        return [SetValues(name, self._shrunk(view, name, knobs)) for name in self._names(view)], state

    def _names(self, view: View) -> list[str]:
        known = view.parameters if self.noise == "normal" else view.fresh
        return [name for name in view.parameters if name in known and name not in view.norms]

    def _shrunk(self, view: View, name: str, knobs: Mapping[str, Tensor]) -> Tensor:
        value = view.parameters[name]
        source = view.fresh[name] if self.noise == "initial" else Fresh("normal", 1.0)
        fresh = source.sample(view.draw, name, value)
        return broadcast_knob(knobs["shrink"], value) * value + broadcast_knob(knobs["perturb"], value) * fresh


@dataclass(frozen=True, kw_only=True)
class ShrinkAndPerturbAtBoundaries(ShrinkAndPerturb):
    """Set w <- shrink * w + perturb * w' once at every task boundary (`run.boundary()`).

    Otherwise like `ShrinkAndPerturb`. `every` must stay 1.

    Source: Ash and Adams (2020), arXiv:1910.08475, section 4, which does this before every new round of data.

    >>> ShrinkAndPerturbAtBoundaries(shrink=0.5).stage.value
    'boundary'
    """

    stage = Stage.BOUNDARY
    shrink: float = knob(0.6, low=0.0, high=1.0, neutral=1.0, unit="factor per boundary", source="our choice")
    perturb: float = knob(
        0.01, low=0.0, high=10.0, neutral=0.0, unit="fraction of a fresh draw per boundary", source="our choice"
    )
