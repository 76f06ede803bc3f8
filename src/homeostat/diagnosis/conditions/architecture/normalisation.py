"""Batch norms whose running statistics differ from those of the batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.cite import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import Condition, Sign
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.loss_facts import BatchNormFacts, LossFacts
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.thresholds import limit


@dataclass(frozen=True, kw_only=True)
class BatchNormMismatch(Condition):
    """A batch norm behaves differently in evaluation mode than in training: its running statistics differ from those of
    the batches, or the batch statistics come from a few numbers.

        |running mean - batch mean| / batch deviation >= shift,   or   running over batch variance (or its inverse) >=
        ratio, medians of the channels of the worst layer and of the last readings;   or   values per channel <= values

    A norm that trains on its running statistics has adapted to them. Its limits are 2.5 times as large, and it is info
    unless its statistics were never set. Losses are read from step 100 on. A run with several optimizers is not judged,
    because its losses use different batches.

    Settings:
        shift, ratio, values: as above.
        readings: required number of the last 5 readings.
    """

    name = "batchnorm-mismatch"
    cite = Cite("Wu and Johnson", 2021, 'Rethinking "Batch" in BatchNorm', "2105.07576")
    explanation = (
        "Batch norm uses the statistics of the batch while it trains and running averages when it evaluates. Here the "
        "two differ, so evaluation gives worse outputs than training."
    )
    remedies = (
        Remedy("check the momentum of the batch norm: 0.1 is the default; 0 never updates the averages"),
        Remedy("call model.train() while training, so that the averages are updated"),
        Remedy("use larger batches, or group norm or layer norm where batches are tiny"),
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "averages that are never updated": Facts(
            steps=500,
            loss=LossFacts(readings=40, batch_norm=BatchNormFacts(readings=5, values=64, shift=3.0, ratio=20.0)),
        ),
    }
    persistence: int = 1
    shift: float = limit(0.4, "policy: twice what healthy networks show", ease=0.8, unit="deviations")
    ratio: float = limit(2.5, "policy: twice what healthy networks show", ease=0.8, low=1.0, unit="times")
    values: float = limit(4, "policy: a variance of four numbers is off by a factor of two", unit="numbers")
    readings: float = limit(5, "policy: one odd batch is no mistake of the script", unit="readings")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        norms = facts.loss.batch_norm
        if norms.readings < self.readings or facts.several_objectives:
            return {}
        numbers = {"shift": norms.shift, "ratio": norms.ratio, "values": norms.values}
        easier = 2.5 if norms.frozen else 1.0
        noise = 2 / max(norms.values, 1.0) ** 0.5  # of the mean of a batch
        if norms.values <= self.values:
            text = f"the statistics of a batch norm come from {norms.values:.0f} numbers a channel"
        elif norms.shift >= max(easier * self.shift, noise) or norms.ratio >= easier * self.ratio:
            text = (
                f"the running mean of a batch norm is {norms.shift:.2g} deviations from that of the batches, and "
                f"its variance differs by a factor of {norms.ratio:.2g}"
            )
        else:
            return {}
        on_purpose = norms.frozen and not norms.unset
        return {NETWORK: Sign("info" if on_purpose else "warning", text, numbers)}
