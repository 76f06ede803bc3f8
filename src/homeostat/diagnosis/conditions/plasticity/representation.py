"""Collapsed representations, which no longer distinguish inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.component import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import SYMPTOMS, Condition, Sign
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.loss_facts import DirectionFacts, LossFacts
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.thresholds import limit


@dataclass(frozen=True, kw_only=True)
class RepresentationCollapse(Condition):
    """A self-supervised network gives (nearly) the same normalised vector for every input.

        mean over dimensions of the standard deviation within a batch * sqrt(D) <= spread

    This is 1 for directions without any preference and 0 for one direction (Chen and He 2021, section 4.1). Losses with
    class labels are not judged.

    Settings:
        readings: number of losses before it is judged.
        spread: largest value for collapsed representations.
    """

    cite = Cite("Chen and He", 2021, "Exploring Simple Siamese Representation Learning", "2011.10566")
    explains = (*SYMPTOMS, "untrained-parameters")
    explanation = (
        "All inputs are mapped to one direction. A loss that only compares two views of an input is then as low as it "
        "can be, and the representation is useless."
    )
    remedies = (
        Remedy("stop the gradient on one side (detach the target), as SimSiam and BYOL do"),
        Remedy("add a term against collapse: negatives (InfoNCE), variance and covariance (VICReg)"),
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "one direction for all inputs": Facts(
            steps=500, loss=LossFacts(readings=40, directions=DirectionFacts(readings=40, spread=0.01))
        ),
    }
    persistence: int = 1
    readings: float = limit(12, "policy: the first steps of a network tell little", unit="readings")
    spread: float = limit(0.1, "policy: healthy runs have 0.5 to 1", ease=1.5, high=1.0)

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        directions = facts.loss.directions
        if directions.readings < self.readings or not directions.spread <= self.spread:
            return {}
        text = f"normalised representations differ within a batch by {directions.spread:.2g} of what directions without"
        return {NETWORK: Sign("warning", f"{text} any preference would", {"spread": directions.spread})}
