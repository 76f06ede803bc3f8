"""Advantages without information."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.component import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import SYMPTOMS, Condition, Sign
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.loss_facts import LossFacts, WeightingFacts
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.thresholds import limit


@dataclass(frozen=True, kw_only=True)
class ZeroAdvantage(Condition):
    """The constant factors of the loss (advantages) are zero on most steps, from the start on.

    Within a group of completions that all get the same reward, the group-relative advantage is zero and so is the
    gradient. A policy that has learned its task also has such groups, but not from the start.

    Settings:
        readings: smallest number of losses with constant factors.
        share: smallest share of them that are all zero, over the run and over its first quarter.
    """

    cite = Cite("Yu et al.", 2025, "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", "2503.14476")
    explains = SYMPTOMS
    explanation = (
        "The advantages that weigh the log-probabilities are all zero on most steps: all samples of a group got the "
        "same reward, so the gradient is zero and nothing is learned from them."
    )
    remedies = (
        Remedy("check the reward function: does it tell good samples from bad ones at all?"),
        Remedy("give partial credit, or easier prompts, so that samples of a group differ in reward"),
        Remedy("sample more completions per prompt, and leave out groups without variance (dynamic sampling)"),
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "rewards that never differ": Facts(
            steps=500, loss=LossFacts(readings=40, weighting=WeightingFacts(readings=40, zero=36, early_zero=1.0))
        ),
    }
    persistence: int = 1
    readings: float = limit(20, "policy: a few groups without variance are usual", unit="readings")
    share: float = limit(0.6, "policy: most steps teach nothing", ease=0.8, high=1.0, unit="of readings")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        weighting = facts.loss.weighting
        few = weighting.readings < self.readings or weighting.zero < self.share * weighting.readings
        if few or not weighting.early_zero >= self.share:
            return {}
        text = (
            f"the advantages were zero for the whole batch in {weighting.zero} of {weighting.readings} losses looked at"
        )
        return {NETWORK: Sign("warning", text, {"zero": weighting.zero, "of": weighting.readings})}
