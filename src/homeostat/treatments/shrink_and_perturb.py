"""Shrink and perturb: pull every weight towards zero and add a little of a fresh initialisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from homeostat.core.component import Cite, knob, option
from homeostat.core.edits import Edit, SetValues
from homeostat.core.errors import Refused
from homeostat.core.treatment import Fresh, Stage, State, Treatment, View
from homeostat.treatments.shapes import beside, check_every


@dataclass(frozen=True, kw_only=True)
class ShrinkAndPerturb(Treatment):
    """Every `every` optimizer steps: w <- shrink * w + perturb * w', with w' a fresh draw.

    `noise` says what w' is:

        initial    a draw from the parameter's own initial distribution (Ash and Adams' code: a second network)
        normal     a standard normal draw, so that `perturb` is a standard deviation (the per-step form of
                   Dohare et al. 2024, where the shrinking is done by weight decay)

    Parameters of normalisation layers are left alone: shrinking a scale would change the function, not renew it.
    With noise "initial", parameters without a known initial distribution are left alone too.

    The defaults are for every step: with perturb^2 = 1 - shrink^2 a weight that gets no gradient keeps its initial
    variance, and forgets where it was in about 1 / (1 - shrink) = 10,000 applications. For the form that is applied
    once per task use `ShrinkAndPerturbAtBoundaries`.

    No state. The optimizer's moments stay: they describe the gradient, which a small step hardly changes.

    Raises:
        Refused: no parameter outside normalisation layers can be treated.

    Source: Ash and Adams (2020), arXiv:1910.08475, section 4; per step: Dohare et al. (2024), arXiv:2306.13812.

    >>> ShrinkAndPerturb.neutral().settings()["shrink"]
    1.0
    """

    cite: ClassVar = (
        Cite("Ash, Adams", 2020, "On Warm-Starting Neural Network Training", "1910.08475", "NeurIPS"),
        Cite("Dohare et al.", 2024, "Loss of plasticity in deep continual learning", "2306.13812", "Nature 632"),
    )
    stage = Stage.UPDATE
    optimizer_state: ClassVar[str] = "untouched: the moments describe the gradient, which hardly changes"

    shrink: float = knob(
        1 - 1e-4,
        low=0.0,
        high=1.0,
        neutral=1.0,
        unit="factor per application",
        source="house choice: initial variance kept over 1e4 steps",
    )
    perturb: float = knob(
        1.414e-2,
        low=0.0,
        high=10.0,
        neutral=0.0,
        unit="fraction of a fresh draw per application",
        source="house choice: initial variance kept over 1e4 steps",
    )
    every: int = option(1)
    noise: str = option("initial", choices=("initial", "normal"))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_every(self.name, self.every)

    def due(self, step: int) -> bool:
        return step % self.every == 0

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
        return beside(knobs["shrink"], value) * value + beside(knobs["perturb"], value) * fresh


@dataclass(frozen=True, kw_only=True)
class ShrinkAndPerturbAtBoundaries(ShrinkAndPerturb):
    """Shrink and perturb once at every task boundary that the run is told of: w <- shrink * w + perturb * w'.

    As `ShrinkAndPerturb`, at stage "boundary"; `every` counts boundaries' steps no longer and must stay 1.

    Source: Ash and Adams (2020), arXiv:1910.08475, section 4, which warm-starts every new round of data this way.

    >>> ShrinkAndPerturbAtBoundaries(shrink=0.5).stage.value
    'boundary'
    """

    stage = Stage.BOUNDARY
    shrink: float = knob(0.6, low=0.0, high=1.0, neutral=1.0, unit="factor per boundary", source="house choice")
    perturb: float = knob(
        0.01, low=0.0, high=10.0, neutral=0.0, unit="fraction of a fresh draw per boundary", source="house choice"
    )
