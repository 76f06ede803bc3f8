"""Policies that stop exploring before they have learned, or that change too much in an update."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from homeostat.core.component import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import SYMPTOMS, Condition, LayerCondition, Sign, graded
from homeostat.diagnosis.example_histories import ExampleHistory, Point
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.loss_series import DIVERGENCE, ENTROPY, RETURNS, SCALE, TARGETS
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.remedies import LOWER_RATE
from homeostat.diagnosis.thresholds import EARLY_NOTICE, limit
from homeostat.diagnosis.trends import median

FEWEST = 12
"""Fewest readings of a policy that is judged."""
LEAST_GAIN = 0.75
"""Gain in returns, in units of their standard deviation within a batch, below which little was learned."""
RECENT = 16
"""Readings over which the distance between new and old policy is taken, because it is zero after every rollout."""
_FEWER_EPOCHS = Remedy("make fewer passes over each rollout, clip ratios closer to 1, or stop at a target KL")
_BONUS = Remedy("add an entropy bonus, or check its sign: the loss has minus the coefficient times the entropy")
_NORMALISED = Remedy("normalise the advantages, and scale the rewards")


@dataclass(frozen=True)
class Returns:
    """The returns of a policy over the run, which are the targets of its value function.

    Args:
        start: level of the first readings.
        spread: standard deviation within a batch, at the start.
        highest: the highest level so far.
        now: present level.
    """

    start: float
    spread: float
    highest: float
    now: float

    @classmethod
    def of(cls, history: History) -> Returns | None:
        """Of the first value function; None if there is none, or if there are too few readings."""
        for layer in history.layers(RETURNS):
            means, sizes = (history.series(vital, layer)[1] for vital in (RETURNS, TARGETS))
            if means.size < FEWEST or not np.isfinite(means).all():
                continue
            start = median(means[:5])
            size = max(median(sizes[:5]), abs(start)) if sizes.size else abs(start)
            spread = math.sqrt((size - abs(start)) * (size + abs(start)))
            highest = max(median(means[i : i + 5]) for i in range(means.size - 4))
            return cls(start, spread, highest, median(means[-5:]))
        return None

    @property
    def gain(self) -> float:
        """Distance from the start, in spreads."""
        return (self.now - self.start) / max(self.spread, 1e-30)

    @property
    def kept(self) -> float:
        """Share of the highest gain that is left; 1 if there was no gain."""
        best = self.highest - self.start
        return (self.now - self.start) / best if best > LEAST_GAIN * self.spread and best > 0 else 1.0


def quartile(values: Array) -> float:
    """The upper quartile, because minibatches soon after a rollout are always close to it. NaN if empty."""
    return float(np.sort(values)[(3 * values.size) // 4]) if values.size else math.nan


def distance(history: History, layer: str) -> float:
    """The largest distance between the new policy and the one that acted, over 8 readings; NaN if unknown."""
    values = history.series(DIVERGENCE, layer)[1]
    return max((quartile(values[i : i + 8]) for i in range(values.size - 7)), default=math.nan)


def _collapsing(t: float, ill: float) -> list[Point]:
    mean = 10.0 + 80.0 * (1 - ill) * t
    return [
        (ENTROPY, NETWORK, 0.9 * (1 - ill * min(1.0, 8 * t))),
        (RETURNS, NETWORK, mean),
        (TARGETS, NETWORK, math.hypot(mean, 5.0)),
    ]


def _freezing(t: float, ill: float) -> list[Point]:
    return [(SCALE, NETWORK, 1.0 - 0.99 * ill * min(1.0, 4 * t)), (DIVERGENCE, NETWORK, 0.01 + 0.5 * ill)]


def _running_away(t: float, ill: float) -> list[Point]:
    return [(DIVERGENCE, NETWORK, 0.01 + 3.0 * ill * t)]


@dataclass(frozen=True, kw_only=True)
class KlRunaway(LayerCondition):
    """Updates move the policy far from the one that collected the data.

    The mean of (r - 1) - ln r over the ratios r of new to old probabilities estimates the Kullback-Leibler divergence
    of the two. The upper quartile of the last 16 readings is used.

    Settings:
        info, warning, critical: smallest divergence (nats) of each severity.
    """

    cite = Cite.of("ppo")
    reads = (DIVERGENCE,)
    explains = (*SYMPTOMS, "policy-entropy-collapse", "value-divergence")
    explanation = (
        "The policy that is trained moves far away from the one that collected the data. The ratios no longer correct "
        "for that, so updates follow noise, and what was learned can be lost within a few of them."
    )
    remedies = (LOWER_RATE, _FEWER_EPOCHS, _NORMALISED)
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"a policy that runs away": _running_away}
    fewest = FEWEST
    persistence: int = 1
    info: float = limit(0.08, EARLY_NOTICE, ease=0.8, unit="nats")
    warning: float = limit(
        0.2, "policy: ten times what target KLs allow (0.01 to 0.03, Schulman et al. 2017)", ease=0.7, unit="nats"
    )
    critical: float = limit(2.0, "policy: old and new policy choose other actions", ease=0.7, unit="nats")

    def sign(self, layer: str, values: Array, facts: Facts) -> Sign | None:
        now = quartile(values[-RECENT:])
        if (severity := graded(now, self.limits())) is None:
            return None
        text = f"the policy that is trained is {now:.2g} nats away from the one that acted"
        return Sign(severity, text, {"kl": round(now, 4)})


@dataclass(frozen=True, kw_only=True)
class PolicyEntropyCollapse(Condition):
    """The policy has become almost deterministic and performs badly.

        entropy (or standard deviation) now / at the start <= share,    and one of

        - the returns are not above their start, or half of what they gained is lost;
        - the entropy fell that far within a quarter of the run, and the returns have gained less than 0.75 of their
          standard deviation within a batch at the start;
        - updates took the policy far from the one that acted, and a fifth of the gain is lost, or returns are unknown.

    Returns are the targets of the value function. Returns that start below zero are judged only by what is lost,
    because targets of values that start at 0 move away from it by themselves. A converged policy is almost
    deterministic too, so without one of these signs the severity is info.

    Settings:
        share: largest share of the entropy at the start, for discrete actions.
        spread: largest share of the standard deviation at the start, for continuous actions.
        kl: smallest divergence between new and old policy that counts as far.
        lost: share of the gain that counts as most of it.
    """

    cite = Cite(
        "Ahmed, Le Roux, Norouzi and Schuurmans",
        2019,
        "Understanding the Impact of Entropy on Policy Optimization",
        "1811.11214",
    )
    reads = (ENTROPY, SCALE, DIVERGENCE, RETURNS, TARGETS)
    explains = SYMPTOMS
    explanation = (
        "The policy takes the same action with near certainty while its returns are poor. It no longer tries other "
        "actions, so it cannot find out that they are better."
    )
    remedies = (_BONUS, LOWER_RATE, _NORMALISED, _FEWER_EPOCHS)
    examples: ClassVar[Mapping[str, ExampleHistory]] = {
        "a policy that stops exploring": _collapsing,
        "a policy whose noise vanishes": _freezing,
    }
    persistence: int = 1
    share: float = limit(0.1, "policy: nine tenths of the entropy at the start are gone", ease=1.5, high=1.0)
    spread: float = limit(0.05, "policy: converged policies for continuous actions keep more", ease=1.5, high=1.0)
    kl: float = limit(0.2, "policy: ten times what target KLs allow", ease=0.7, unit="nats")
    lost: float = limit(0.5, "policy: half of the gain", ease=0.8, high=1.0, unit="of the gain in returns")

    def clock(self, history: History, facts: Facts) -> int:
        return history.clock((ENTROPY, SCALE))

    def layer_clock(self, history: History, layer: str, default: int) -> int:
        latest = [found[0] for vital in (ENTROPY, SCALE) if (found := history.latest(vital, layer)) is not None]
        return max(latest, default=default)

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        found, returns = dict[str, Sign](), Returns.of(history)
        for vital, share, word in ((ENTROPY, self.share, "entropy"), (SCALE, self.spread, "standard deviation")):
            for layer in history.layers(vital):
                steps, values = history.series(vital, layer)
                start, now = median(values[:3]), median(values[-3:])
                if values.size < FEWEST or not 0 < start < math.inf or now > share * start:
                    continue
                early = bool((values[steps <= steps[-1] / 4] <= share * start).any())
                text = f"the {word} of the policy is {now:.2g}, at the start it was {start:.2g}"
                why = self._why(returns, distance(history, layer), early)
                severity = "warning" if why else "info"
                text = f"{text}, and {why}" if why else f"{text}; a converged policy looks the same"
                found[layer] = Sign(severity, text, {"now": round(now, 5), "start": round(start, 5)})
        return found

    def _why(self, returns: Returns | None, far: float, early: bool) -> str:
        """Why the policy performs badly, "" if nothing shows it."""
        if returns is not None:
            worse = returns.start >= 0 and (returns.now <= 1.1 * returns.start or (early and returns.gain < LEAST_GAIN))
            if worse or 1 - returns.kept >= self.lost:
                best = f"they started from {returns.start:.3g}, and the best was {returns.highest:.3g}"
                return f"the returns are {returns.now:.3g} ({best})"
        if far >= self.kl and (returns is None or returns.kept <= 0.8):
            return f"updates took it up to {far:.2g} nats away from the policy that acted"
        return ""
