"""Inputs of an unusual scale, and batches that hold few of the classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.component import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import SYMPTOMS, Condition, Sign
from homeostat.diagnosis.conditions.optimization.loss import judged_losses
from homeostat.diagnosis.example_histories import ExampleHistory, Point
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.loss_facts import LabelFacts, LossFacts
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.sources import BENGIO
from homeostat.diagnosis.thresholds import limit
from homeostat.diagnosis.trends import median


def _no_progress(t: float, ill: float) -> list[Point]:
    return [("loss", NETWORK, 0.7 * math.exp(-3 * (1 - ill) * t))]


@dataclass(frozen=True, kw_only=True)
class InputsNotScaled(Condition):
    """The inputs are large, or far from zero compared with how much they vary, and the loss makes no progress, or
    most units of a layer are saturated or dormant. Or they are tiny, and the loss makes no progress.

    Settings:
        size: smallest root mean square of inputs that count as large.
        tiny: largest root mean square of inputs that count as tiny.
        offset: smallest mean over standard deviation (median of the features) that counts as far from zero.
        progress: share of the loss's starting level above which it has made little progress.
        units: share of saturated or dormant units.
        steps: optimizer steps before it is judged.
    """

    cite = Cite.of("efficient-backprop")
    reads = ("loss", "saturated-units", "dormant-units")
    explains = SYMPTOMS
    explanation = (
        "Inputs with a large mean or scale saturate the first layer and make the loss badly conditioned: some weights "
        "would need a thousand times smaller steps than others. Tiny inputs (divided by 255 twice) are outweighed by "
        "the first biases."
    )
    remedies = (
        Remedy("standardise the inputs: subtract the mean of each feature and divide by its standard deviation"),
        Remedy("put a batch norm before the first layer"),
    )
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"a loss that stands still on large inputs": _no_progress}
    persistence: int = 2
    size: float = limit(20, "policy: 8-bit pixels that were not divided have 80 to 130", ease=0.8)
    offset: float = limit(3, "policy: the mean of 8-bit pixels is about one standard deviation from zero", ease=0.8)
    tiny: float = limit(0.01, "policy: 8-bit pixels divided by 255 have 0.3, divided twice 0.001", ease=1.5)
    progress: float = limit(0.6, "policy: a run that learns has left this level behind", high=1.0, unit="of the start")
    units: float = limit(0.6, "policy: most units of a layer no longer tell inputs apart", ease=0.8, high=1.0)
    steps: float = limit(100, "policy: a warm-up may take that long", unit="steps")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        size, offset = facts.loss.inputs.size, facts.loss.inputs.offset
        small = 0 < size <= self.tiny
        if not (small or (size >= self.size and (offset >= self.offset or size >= 3 * self.size))):
            return {}
        found: dict[str, Sign] = {}
        for layer, (steps, values) in judged_losses(history, facts).items():
            now, start = median(values[-5:]), self._start(values, facts)
            third = max(values.size // 3, 1)
            falling = median(values[-third:]) < 0.97 * median(values[-2 * third : -third])
            falling = falling and now < 2 * start  # a loss that falls to that of guessing has learned nothing yet
            stands = values.size >= 8 and steps[-1] >= self.steps and now > self.progress * start and not falling
            if stands or (values.size >= 3 and not small and self._silenced(history)):
                text = (
                    f"the inputs have a root mean square of {size:.3g} and a mean of {offset:.2g} standard deviations, "
                    f"and the loss stands at {now:.3g}"
                )
                found[layer] = Sign("warning", text, {"size": size, "offset": offset, "loss": now})
        return found

    def _silenced(self, history: History) -> bool:
        """Whether most units of some layer are saturated or dormant."""
        series = [history.series(vital, layer)[1] for vital in self.reads[1:] for layer in history.layers(vital)]
        return any(values.size and median(values[-3:]) >= self.units for values in series)

    @staticmethod
    def _start(values: Array, facts: Facts) -> float:
        """The loss of guessing if it is known, because the first loss on large inputs is far above it."""
        chance = facts.loss.labels.chance
        return min(float(values[0]), chance) if chance == chance and chance > 0 else float(values[0])


@dataclass(frozen=True, kw_only=True)
class DataNotShuffled(Condition):
    """A batch holds few of the classes, and absent classes come back: the data are read in the order of their classes.

    Targets that are numbers are in order if they differ little within a batch, compared with those of all batches, and
    if the same values come back. It is info if the squared error is below `error` of the variance within a batch:
    windows of a series may be read in their order, and are learned.

    Settings:
        share: largest share of the classes so far that a batch holds.
        within: largest variance of numbers within a batch, relative to the variance of all.
        error: as above.
        readings: readings of the labels before it is judged.
    """

    cite = BENGIO
    explains = (*SYMPTOMS, "targets-not-scaled")
    explanation = (
        "Each batch holds a few classes only. The network moves to the classes it sees and away from the others, again "
        "and again within an epoch."
    )
    remedies = (Remedy("shuffle the training set: DataLoader(..., shuffle=True), or permute its indices every epoch"),)
    faults: ClassVar[Mapping[str, Facts]] = {
        "one class after the other": Facts(
            steps=500, loss=LossFacts(readings=40, labels=LabelFacts(classes=10, order="recurring", share=0.2))
        ),
    }
    persistence: int = 1
    share: float = limit(0.4, "policy: a shuffled batch of one item a class holds 63% of them", ease=1.2, high=1.0)
    within: float = limit(0.25, "policy: shuffled batches have 0.9 to 1", ease=1.2, high=1.0, unit="of the variance")
    error: float = limit(1, "policy: the error of the mean of each batch", unit="of the variance within")
    readings: float = limit(12, "policy: enough to see classes come back", unit="readings")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        loss = facts.loss
        if (of_numbers := self._of_numbers(facts)) is not None:
            return {NETWORK: of_numbers}
        if loss.labels.order != "recurring" or loss.readings < self.readings or not loss.labels.share <= self.share:
            return {}
        text = f"a batch holds {loss.labels.share:.0%} of the classes seen so far, and classes that were gone come back"
        return {NETWORK: Sign("warning", text, {"share": loss.labels.share, "classes": loss.labels.classes})}

    def _of_numbers(self, facts: Facts) -> Sign | None:
        order = facts.loss.target_order
        if facts.moving_targets or order.readings < self.readings or not order.recurring or order.within > self.within:
            return None
        text = f"targets differ within a batch by {order.within:.0%} of their variance, and the same values come back"
        error = facts.loss.regression.error
        severity = "info" if error < self.error else "warning"  # an error that has overflowed is not small
        return Sign(severity, text, {"within": order.within, "error": error})
