"""Values of states and actions that are learned from targets computed by the network itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from homeostat.core.component import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import SYMPTOMS, Condition, LayerCondition, Sign
from homeostat.diagnosis.example_histories import ExampleHistory, Point
from homeostat.diagnosis.facts import Facts, PolicyFacts, TargetFacts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.loss_series import PREDICTIONS, TARGETS
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.remedies import CLIP, LOWER_RATE
from homeostat.diagnosis.thresholds import limit
from homeostat.diagnosis.trends import kendall_tau, median

FEWEST = 20
"""Fewest readings of targets whose growth is judged."""


def _growing(t: float, ill: float) -> list[Point]:
    return [(TARGETS, NETWORK, math.exp(20 * ill * t)), (PREDICTIONS, NETWORK, math.exp(20 * ill * t))]


@dataclass(frozen=True, kw_only=True)
class ValueDivergence(LayerCondition):
    """Targets grow exponentially, together with the predictions from which they are computed.

        size now / largest size at the start >= growth,     size now / size at half of the steps >= recent,
        Kendall's tau of the second half >= order,          predictions grew by at least `recent` too

    and no single reading makes up most of the growth of the second half, because a first reward is one jump. Sizes are
    root mean squares. Values of rewards of constant size stay below that size divided by one minus the discount.
    Targets that do not grow are not judged, however large they are, nor are targets that grow in proportion to the
    steps.

    Settings:
        growth: smallest size relative to the largest of the first five readings.
        recent: smallest growth over the second half of the steps.
        absolute: size from which on a hundredth of `growth` is enough.
        order: smallest tau.
    """

    cite = Cite(
        "van Hasselt, Doron, Strub, Hessel, Sonnerat and Modayil",
        2018,
        "Deep Reinforcement Learning and the Deadly Triad",
        "1812.02648",
    )
    reads = (TARGETS, PREDICTIONS)
    explains = (*SYMPTOMS, "loss-spikes", "targets-not-scaled")
    explanation = (
        "The targets are computed from the network's own predictions, and both grow without bound: each update raises "
        "the targets of the next ones."
    )
    remedies = (
        Remedy("use a target network that follows slowly, or the smaller of two critics"),
        Remedy("check the discount (below 1), and that targets of last steps leave the next value out"),
        LOWER_RATE,
        CLIP,
    )
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"values that grow without bound": _growing}
    fewest = FEWEST
    persistence: int = 1
    growth: float = limit(1000, "policy: a discount of 0.999 allows values of a thousand rewards", ease=0.7)
    recent: float = limit(3, "policy: growth in proportion to the steps doubles over half of them", ease=0.8, low=1.0)
    absolute: float = limit(1e5, "policy: few rewards are that large", ease=0.7)
    order: float = limit(0.7, "policy: nearly every reading above those before it", ease=0.9, high=1.0)

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        found = dict[str, Sign]()
        for layer in history.layers(TARGETS):
            steps, values = history.series(TARGETS, layer)
            grown = self._grown(steps, values)
            if grown is None:
                continue
            predictions = history.series(PREDICTIONS, layer)
            if predictions[1].size and not self._follows(*predictions):
                continue
            now, start = grown
            severity = "critical" if now >= self.growth * self.growth * start else "warning"
            text = f"the targets have grown to {now:.3g} (at the start at most {start:.3g}), and they still grow"
            found[layer] = Sign(severity, text, {"size": _plain(now), "start": _plain(start)})
        return found

    def _grown(self, steps: Array, values: Array) -> tuple[float, float] | None:
        if values.size < FEWEST or not np.isfinite(values).all() or values.min() < 0:
            return None
        start, now = float(values[:5].max()), median(values[-3:])
        late = values[steps >= steps[-1] / 2]
        few = self.growth / 100 if now >= self.absolute else self.growth
        if late.size < 5 or now < few * start or now < self.recent * max(median(late[:2]), 1e-30):
            return None
        if kendall_tau(late) < self.order:
            return None
        rises = np.diff(np.log(np.maximum(late, 1e-30)))
        return None if rises.max() > 0.7 * rises.sum() else (now, start)

    def _follows(self, steps: Array, values: Array) -> bool:
        late = values[steps >= steps[-1] / 2]
        return late.size > 1 and median(values[-3:]) >= self.recent * median(late[:2])


@dataclass(frozen=True, kw_only=True)
class TargetNetworkNeverUpdated(Condition):
    """The target network has never changed while the network was trained.

    A target network has the same architecture and is in no optimizer. It started from the same values, or its network
    is trained on the values of chosen actions. At most readings it ran on another batch than the network, while outputs
    of the network were compared with numbers. A teacher or a reference model runs on the same batch.

    Settings:
        readings: readings at which it computed the targets.
        steps: optimizer steps of a finished run after which it is judged.
        waited: the same during a run, because some copies are updated every few thousand steps.
    """

    cite = Cite("Mnih et al.", 2015, "Human-level control through deep reinforcement learning", "", "Nature 518")
    explains = (*SYMPTOMS, "value-divergence")
    explanation = (
        "The targets come from a copy of the network that still has the values of the start. Rewards reach only the "
        "states just before them; further back, values are those of an untrained network."
    )
    remedies = (
        Remedy("copy the weights every few hundred steps: target.load_state_dict(network.state_dict())"),
        Remedy("or let the copy follow slowly: p_target.lerp_(p, 0.005) for every parameter, after each step"),
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "a target network that stays as it was": Facts(
            steps=4000, ended=True, policy=PolicyFacts(readings=60, targets=(TargetFacts(steps=4000, readings=20),))
        ),
    }
    persistence: int = 1
    readings: float = limit(5, "policy: enough to see what the copy is for", unit="readings")
    steps: float = limit(250, "policy: a run with fewer may end before the first update", unit="steps")
    waited: float = limit(20_000, "policy: copies are updated after at most some thousand steps", unit="steps")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        for target in facts.policy.targets:
            if target.changed or target.readings < self.readings or not (target.copied or target.chosen):
                continue
            if target.steps >= (self.steps if facts.ended else self.waited):
                whose = f"of {target.of} " if target.of else ""
                text = f"the copy {whose}that gives the targets has not changed in {target.steps} steps"
                return {NETWORK: Sign("warning", text, {"steps": target.steps, "readings": target.readings})}
        return {}


def _plain(value: float) -> float:
    return float(f"{value:.4g}")
