"""Batches whose items influence one another, and inputs that hold the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import SYMPTOMS, Condition, Sign
from homeostat.diagnosis.conditions.wiring.loss_graph import GraphCondition
from homeostat.diagnosis.facts import Facts, ItemFacts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.loss_facts import LeakFacts, LossFacts
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.sources import NEURALINT
from homeostat.diagnosis.thresholds import limit


@dataclass(frozen=True, kw_only=True)
class ItemsMixed(Condition):
    """The outputs for an item depend on the other items of its batch, in evaluation mode too.

        mean change of the outputs when every other item is replaced / their deviation within the batch >= influence

    This is looked at on a copy of the network, if it knows less than half of its batch after 100 steps.

    Settings:
        influence: as above.
    """

    cite = NEURALINT
    explains = SYMPTOMS
    explanation = (
        "Items of a batch are mixed with each other: batch and time (or another dimension) are exchanged. What belongs "
        "to an item reaches its output together with what belongs to others."
    )
    remedies = (
        Remedy("give recurrent and attention layers batch_first=True for inputs [batch, time, features]"),
        Remedy("exchange dimensions by transpose or permute; view and reshape keep the order of the numbers"),
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "batch and time exchanged": Facts(steps=500, items=ItemFacts(looks=2, influence=1.0, items=32)),
    }
    persistence: int = 1
    influence: float = limit(0.1, "policy: networks that treat items one by one have 1e-5", unit="deviations")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        seen = facts.items
        if not seen.looks or not seen.influence >= self.influence:
            return {}
        text = f"when half of a batch is replaced, the outputs of the others change by {seen.influence:.2g} deviations"
        return {NETWORK: Sign("warning", text, {"influence": seen.influence, "items": seen.items})}


@dataclass(frozen=True, kw_only=True)
class TargetLeak(GraphCondition):
    """The tokens that a network is to find are among those that it is given at the same position."""

    cite = NEURALINT
    explanation = (
        "The network need only copy what it is given, so its loss says nothing about what it has learned, and it "
        "cannot generate."
    )
    remedies = (
        Remedy("shift the targets: inputs tokens[:, :-1], targets tokens[:, 1:]"),
        Remedy("use a causal mask (is_causal=True), so that a position sees those before it"),
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "targets that are not shifted": Facts(steps=500, loss=LossFacts(readings=20, leak=LeakFacts(20, "the same"))),
    }

    def count(self, loss: LossFacts) -> tuple[int, int]:
        return loss.leak.readings, loss.readings

    def text(self, loss: LossFacts) -> str:
        return loss.leak.how
