"""Settings of the optimizer that end or outweigh learning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from homeostat.core.component import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import SYMPTOMS, Condition, Sign
from homeostat.diagnosis.conditions.optimization.loss import judged_losses
from homeostat.diagnosis.example_histories import LAYERS, ExampleHistory, Point
from homeostat.diagnosis.facts import Facts, OptimizerFacts, RateFacts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.sources import NEURALINT
from homeostat.diagnosis.steps import is_network
from homeostat.diagnosis.thresholds import limit
from homeostat.diagnosis.trends import median


@dataclass(frozen=True, kw_only=True)
class ScheduleEndsTraining(Condition):
    """The learning rate has decayed to almost zero, and training continues for longer than the decay took.

    Settings:
        part: share of all steps at which the rate is below a hundredth of its highest value.
        steps: smallest number of such steps.
    """

    cite = NEURALINT
    explains = ("stalled-learning", "vanishing-gradients")
    explanation = (
        "The schedule has taken the learning rate to nearly zero while most of the run was still to come. Usually "
        "it was made for epochs but is stepped once a batch."
    )
    remedies = (
        Remedy("step the scheduler once an epoch, or give it the number of batches instead of epochs"),
        Remedy("let the schedule end at a tenth of the highest rate instead of zero"),
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "a schedule of epochs that is stepped a batch": Facts(
            steps=1000, rates={"": RateFacts(highest=1e-3, now=0.0, spent_since=30)}
        ),
    }
    persistence: int = 1
    part: float = limit(
        0.5, "policy: a schedule may spend its last part near zero", ease=0.8, high=1.0, unit="of steps"
    )
    steps: float = limit(100, "policy: long enough to matter", unit="steps")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        found: dict[str, Sign] = {}
        for name, rate in facts.rates.items():
            if rate.spent_since is None:
                continue
            since = facts.steps - rate.spent_since
            if since >= self.steps and since >= self.part * facts.steps:
                text = f"the learning rate fell from {rate.highest:.3g} to {rate.now:.3g} by step {rate.spent_since}"
                text += f", and training went on for {since} steps"
                found[f"{name}.{NETWORK}" if name else NETWORK] = Sign("warning", text, {"since": since})
        return found


_STILL = 0.97
"""Loss over that of the start above which nothing was learned."""


def _decaying(t: float, ill: float) -> list[Point]:
    norms = [("weight-norm", layer, 5.0 * math.exp(-4 * ill * t)) for layer in LAYERS]
    return [*norms, ("loss", NETWORK, 2.0 * math.exp(-3 * (1 - ill) * t))]


@dataclass(frozen=True, kw_only=True)
class WeightDecayDominates(Condition):
    """Weight decay has shrunk the weights to a small part of their initial norm while the loss did not fall.

    Without such a decay in the optimizer it is a penalty in the loss that does so: then half of the layers must have
    lost nine tenths of their norm, and the loss must stand at the level of guessing.

    Settings:
        decay: smallest decay per step (weight decay times learning rate) that is judged.
        shrunk: largest norm of the weights relative to the first measured norm.
        progress: share of the loss's starting level above which it has made little progress.
        strong: decay per step from which on `halved` is enough, where the loss has made no progress at all.
        halved: largest norm of the weights then.
    """

    cite = Cite(
        "D'Angelo, Andriushchenko, Varre and Flammarion",
        2023,
        "Why Do We Need Weight Decay in Modern Deep Learning?",
        "2310.04415",
    )
    reads = ("weight-norm", "loss")
    explains = SYMPTOMS
    explanation = (
        "Weight decay pulls the weights to zero faster than the gradients build them up: the outputs become constant, "
        "and the loss stays at the level of guessing."
    )
    remedies = (Remedy("lower the weight decay by a factor of ten to a thousand: 1e-4 to 1e-2 is usual"),)
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"weights that decay while the loss stands": _decaying}
    persistence: int = 2
    decay: float = limit(1e-4, "policy: a weight decay of 0.01 at a rate of 0.01", ease=0.8, unit="1/step")
    shrunk: float = limit(0.3, "policy: networks that learn keep most of their norm", ease=1.2, high=1.0)
    progress: float = limit(0.7, "policy: a run that learns has left this level behind", high=1.0, unit="of the start")
    strong: float = limit(5e-4, "policy: five times the decay that large models are trained with", unit="1/step")
    halved: float = limit(0.5, "policy: half of the norm is gone and nothing was learned", ease=1.1, high=1.0)

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        # the highest rate: a schedule may have ended the decay after it has done its work
        highest = {network: rate.highest for network, rate in facts.rates.items()}
        decays = {o.network: _decay(o, highest.get(o.network, math.nan)) for o in facts.optimizers}
        losses = judged_losses(history, facts)
        stuck = {k for k, (_, v) in losses.items() if v.size >= 8 and median(v[-5:]) > self.progress * float(v[0])}
        if max(decays.values(), default=0.0) < self.decay:
            return self._by_a_penalty(history, facts, losses)
        if not stuck:
            return {}
        still = all(median(v[-5:]) > _STILL * median(v[:5]) for k, (_, v) in losses.items() if k in stuck)
        shrunk = self.halved if still and max(decays.values()) >= self.strong else self.shrunk
        found: dict[str, Sign] = {}
        for layer in history.layers("weight-norm"):
            values = history.series("weight-norm", layer)[1]
            if values.size >= 4 and values[-1] <= shrunk * values[0]:
                left = float(values[-1] / max(float(values[0]), 1e-30))
                text = f"weight decay has taken the norm of the weights to {left:.2g} of the first, and the loss stands"
                found[layer] = Sign("warning", text, {"left": left, "decay": max(decays.values())})
        return found

    def _by_a_penalty(
        self, history: History, facts: Facts, losses: Mapping[str, tuple[Array, Array]]
    ) -> dict[str, Sign]:
        known = facts.loss.known_guesses()
        norms = {layer: history.series("weight-norm", layer)[1] for layer in history.layers("weight-norm")}
        left = {
            k: float(v[-1] / v[0])
            for k, v in norms.items()
            if v.size >= 4 and 0 < v[0] < math.inf and not is_network(k)
        }
        gone = {layer: part for layer, part in left.items() if part <= 0.1 * self.shrunk / 0.3}
        stands = [k for k, (_, v) in losses.items() if v.size >= 8 and median(v[-5:]) >= 0.95 * min(known, default=0)]
        if not known or not stands or 2 * len(gone) < len(left) or not gone:
            return {}
        text = "a penalty on the weights in the loss has taken their norm to {:.2g} of the first, and the loss stands"
        return {k: Sign("warning", text.format(part), {"left": part, "decay": 0.0}) for k, part in gone.items()}


def _decay(optimizer: OptimizerFacts, highest: float) -> float:
    """The share of a weight that decay removes in a step, at the highest learning rate (NaN if unknown)."""
    momentum = 1 / max(1 - optimizer.momentum, 1e-3)
    return optimizer.weight_decay * max(optimizer.learning_rate, highest) * momentum
