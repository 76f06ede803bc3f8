"""Batch norms whose running statistics are not those of the batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.cite import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import Condition, Sign
from homeostat.diagnosis.facts import Facts, LossFacts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.thresholds import limit


@dataclass(frozen=True, kw_only=True)
class BatchNormMismatch(Condition):
    """In evaluation mode a batch norm would do something else than in training: its running statistics are not those of
    the batches, or these are statistics of a few numbers.

        |running mean - batch mean| / batch deviation >= shift,   or   running over batch variance (or its inverse) >=
        ratio, medians of the channels of the worst layer and of the last readings;   or   values per channel <= values

    A norm that trains on its running statistics has adapted to them: it is judged at 2.5 times these limits, and is
    information only where the statistics were ever set. Losses are looked at from step 100 on. A run with several
    optimizers is not judged: its losses see other batches.

    Settings:
        shift, ratio, values: as above.
        readings: of the last 5 losses looked at, how many there must be.
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
            steps=500, loss=LossFacts(readings=40, norms=5, norm_values=64, norm_shift=3.0, norm_ratio=20.0)
        ),
    }
    persistence: int = 1
    shift: float = limit(0.4, "policy: twice what healthy networks show", ease=0.8, unit="deviations")
    ratio: float = limit(2.5, "policy: twice what healthy networks show", ease=0.8, low=1.0, unit="times")
    values: float = limit(4, "policy: a variance of four numbers is off by a factor of two", unit="numbers")
    readings: float = limit(5, "policy: one odd batch is no mistake of the script", unit="readings")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        loss = facts.loss
        if loss.norms < self.readings or facts.several_objectives:
            return {}
        numbers = {"shift": loss.norm_shift, "ratio": loss.norm_ratio, "values": loss.norm_values}
        easier = 2.5 if loss.norms_frozen else 1.0
        noise = 2 / max(loss.norm_values, 1.0) ** 0.5  # of the mean of a batch
        if loss.norm_values <= self.values:
            text = f"the statistics of a batch norm come from {loss.norm_values:.0f} numbers a channel"
        elif loss.norm_shift >= max(easier * self.shift, noise) or loss.norm_ratio >= easier * self.ratio:
            text = (
                f"the running mean of a batch norm is {loss.norm_shift:.2g} deviations from that of the batches, and "
                f"its variance differs by a factor of {loss.norm_ratio:.2g}"
            )
        else:
            return {}
        on_purpose = loss.norms_frozen and not loss.norms_unset
        return {NETWORK: Sign("info" if on_purpose else "warning", text, numbers)}
