"""Outputs that do not depend on the inputs, and targets of an unsuitable scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.cite import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import SYMPTOMS, Condition, Sign
from homeostat.diagnosis.conditions.architecture.attention import learns
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import History
from homeostat.diagnosis.loss_facts import LossFacts, OutputFacts, RegressionFacts
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.remedies import LOWER_RATE, SCALED_INIT
from homeostat.diagnosis.sources import AUTOTRAINER
from homeostat.diagnosis.thresholds import limit
from homeostat.diagnosis.trends import median


@dataclass(frozen=True, kw_only=True)
class OutputCollapse(Condition):
    """The network gives (nearly) the same output or class for every input, and the loss is that of guessing.

        deviation of the outputs within a batch <= spread    (log-probabilities or logits; numbers over their targets'),
        or one class has `share` of the predictions and at most `labels` of the labels

    Settings:
        spread, share, labels: as above.
        progress: share of the start (or of guessing) below which a loss counts as learning.
        steps: optimizer steps before it is judged.
    """

    cite = AUTOTRAINER
    explains = ("stalled-learning", "oscillating-loss")
    explanation = (
        "The outputs do not depend on the inputs: the network predicts the mean of the targets, or the most frequent "
        "class, for all of them."
    )
    remedies = (
        Remedy("look for what cuts the outputs off from the inputs: dead units, a saturated layer, a wrong dimension"),
        SCALED_INIT,
        LOWER_RATE,
        Remedy("balance the classes, or weigh them in the loss"),
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "one output for all inputs": Facts(
            steps=1000,
            loss=LossFacts(
                readings=40, outputs=OutputFacts(readings=5, spread=1e-5), regression=RegressionFacts(error=1.0)
            ),
        ),
    }
    persistence: int = 1
    spread: float = limit(0.01, "policy: new networks of a few layers have 0.03 to 1", ease=1.5)
    share: float = limit(0.99, "policy: one class for all inputs", ease=0.98, high=1.0, unit="of the predictions")
    labels: float = limit(0.6, "policy: where most labels are of one class, predicting it is no fault", high=1.0)
    progress: float = limit(0.95, "policy: a run that learns has left this level behind", high=1.0, unit="of the start")
    steps: float = limit(200, "policy: a warm-up may take that long", unit="steps")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        outputs, targets = facts.loss.outputs, facts.loss.regression
        if outputs.readings < 5 or facts.steps < self.steps or facts.several_objectives or facts.moving_targets:
            return {}
        learned = learns(history, facts, self.progress)
        if learned or (learned is None and not targets.error >= self.progress):
            return {}
        if outputs.spread <= self.spread:
            text = f"outputs differ within a batch by {outputs.spread:.1e}"
        elif outputs.share >= self.share and outputs.label_share <= self.labels:
            text = f"one class has {outputs.share:.0%} of the predictions"
            text += f" and {outputs.label_share:.0%} of the labels"
        else:
            return {}
        return {NETWORK: Sign("warning", f"{text}, and the loss is that of guessing", {"spread": outputs.spread})}


@dataclass(frozen=True, kw_only=True)
class TargetsNotScaled(Condition):
    """The targets of a squared error are large or far from zero, and the error is no smaller than that of a constant.

        root mean square >= size, or |mean| / deviation >= offset,   and   squared error / variance of targets >= error,
        or `units` of a layer are saturated or dormant

    Settings:
        size, offset, error, units: as above.
        steps: optimizer steps before it is judged.
    """

    cite = Cite.of("efficient-backprop")
    explains = (*SYMPTOMS, "non-finite")
    explanation = (
        "A new network gives outputs of about one. Targets in the hundreds, or with a large mean, take thousands of "
        "steps to reach, and their errors make gradients that are as large: the offset is all that is learned."
    )
    remedies = (
        Remedy("standardise the targets: subtract their mean, divide by their standard deviation, and undo it in use"),
        Remedy("set the bias of the last layer to the mean of the targets"),
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "targets in the thousands": Facts(
            steps=1000,
            loss=LossFacts(
                readings=40,
                outputs=OutputFacts(readings=5),
                regression=RegressionFacts(size=3000.0, offset=4.0, error=9.0),
            ),
        ),
    }
    persistence: int = 1
    size: float = limit(20, "policy: outputs of new networks are about one", ease=0.8)
    offset: float = limit(10, "policy: targets that vary by a tenth of their mean", ease=0.8, unit="deviations")
    error: float = limit(0.8, "policy: a network that learns has left the mean behind", ease=0.8, unit="of variance")
    units: float = limit(0.9, "policy: a layer that no longer tells inputs apart", ease=0.9, high=1.0)
    steps: float = limit(100, "policy: a warm-up may take that long", unit="steps")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        outputs, targets = facts.loss.outputs, facts.loss.regression
        if facts.moving_targets:  # returns and state values have the scale of the rewards
            return {}
        reached = targets.error < self.error  # false for an error that has overflowed
        if outputs.readings < 5 or facts.steps < self.steps or (reached and not self._silenced(history)):
            return {}
        if not (targets.size >= self.size or targets.offset >= self.offset):
            return {}
        text = (
            f"the targets have a root mean square of {targets.size:.3g} and a mean of {targets.offset:.2g} "
            f"deviations, and the squared error is {targets.error:.3g} times their variance"
        )
        numbers = {"size": targets.size, "offset": targets.offset, "error": targets.error}
        return {NETWORK: Sign("warning", text, numbers)}

    def _silenced(self, history: History) -> bool:
        """Whether most units of some layer are saturated or dormant."""
        vitals = ("saturated-units", "dormant-units")
        series = [history.series(vital, layer)[1] for vital in vitals for layer in history.layers(vital)]
        return any(values.size and median(values[-3:]) >= self.units for values in series)
