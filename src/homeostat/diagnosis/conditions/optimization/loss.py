"""Conditions of the loss: no progress, or oscillation instead of progress.

Only positive losses of runs with one objective are judged. With several optimizers (actor and critic, generator and
discriminator) the target moves, so a rise or an oscillation means little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import Condition, Sign, graded
from homeostat.diagnosis.example_histories import READINGS, ExampleHistory, Point, wobble
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.remedies import CLIP, LOWER_RATE, SCALED_INIT
from homeostat.diagnosis.sources import AUTOTRAINER
from homeostat.diagnosis.thresholds import EARLY_NOTICE, limit, measured
from homeostat.diagnosis.trends import kendall_tau, median, roughness, tau_limit

FEWEST = 16
"""Fewest readings of a loss that is judged."""
JUMPS = 3
"""Number of jumps from which on a loss is judged by the levels before them."""
CERTAIN = 0.05
"""Largest half width of the confidence interval of a loss, as a share of its start, at which few readings show a
stall."""


def judged_losses(history: History, facts: Facts) -> dict[str, tuple[Array, Array]]:
    """Layer -> (steps, values) of the losses that can be judged: of one objective, finite, positive, and neither a
    policy gradient nor a comparison with a target network."""
    if facts.several_objectives or facts.moving_targets:
        return {}
    series = {layer: history.series("loss", layer) for layer in history.layers("loss")}
    return {k: (s, v) for k, (s, v) in series.items() if v.size and np.isfinite(v).all() and v.min() >= 0}


def starting_level(values: Array, history: History, facts: Facts) -> float:
    """The starting level of a loss: its first reading, at step 1.

    With a few samples per step one reading is too noisy, and the median of the first 5 is used.
    """
    return median(values[:5]) if tiny_batches(history, facts) else float(values[0])


def learns_between_jumps(layer: str, start: float, facts: Facts) -> bool:
    """Whether the loss has fallen before each of its last jumps, as in a stream of tasks that are learned."""
    ends = facts.task_ends.get(layer, ())
    if len(ends) < JUMPS:
        return False
    lengths = median(np.diff([step for step, _ in ends], prepend=0).astype(float))
    return facts.steps - ends[-1][0] <= 2 * lengths and median(np.array([v for _, v in ends[-JUMPS:]])) <= 0.5 * start


def tiny_batches(history: History, facts: Facts) -> bool:
    """Whether steps have so few samples that one loss says little: by the batch size, or because no share of units
    could be measured."""
    if facts.batch_size is not None:
        return facts.batch_size < 8
    layers = history.layers("dormant-units")
    return bool(layers) and not any(history.series("dormant-units", layer)[1].size for layer in layers)


def _swinging(t: float, ill: float) -> list[Point]:
    sign = 1 if round(t * READINGS) % 2 else -1
    return [("loss", NETWORK, 2.0 * (1.2 - 0.2 * (1 - ill) * t) * (1 + 0.6 * ill * sign))]


def _standing_still(t: float, ill: float) -> list[Point]:
    return [("loss", NETWORK, 2.0 * math.exp(-3 * (1 - ill) * t) * (1 + wobble(round(t * READINGS), 0.01)))]


def _diverging(t: float, ill: float) -> list[Point]:
    return [("loss", NETWORK, 2.0 * math.exp(-3 * (1 - ill) * t) * (1 + 19 * ill * t))]


@dataclass(frozen=True, kw_only=True)
class OscillatingLoss(Condition):
    """The loss oscillates by a large part of its starting level and has made little progress.

        roughness of the last n = 40 readings / start >= amplitude,   their median / start >= progress

    With fewer readings (at least 16) the roughness is less certain: the amplitude must be sqrt(40 / n) times larger.

    Roughness (see `trends.roughness`) ignores trends and single jumps. A noisy loss that falls is due to small batches;
    a converged loss oscillates relative to itself, not relative to its start.

    Settings:
        info, warning: smallest amplitude of each severity.
        progress: share of the starting level below which the loss counts as falling.
        readings: number n of last readings, as above.
    """

    cite = AUTOTRAINER
    reads = ("loss",)
    explanation = (
        "The loss jumps up and down from step to step instead of falling. Usually the learning rate is too high."
    )
    remedies = (LOWER_RATE, Remedy("use larger batches"), CLIP)
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"a swinging loss": _swinging}
    persistence: int = 5
    info: float = limit(0.1, EARLY_NOTICE, ease=0.8, unit="of the starting loss")
    warning: float = measured(np.round(np.arange(0.1, 1.55, 0.1), 2), ease=0.8, unit="of the starting loss")
    progress: float = limit(
        0.95,
        "policy: a loss below its start may swing for other reasons, such as changing tasks",
        ease=0.9,
        unit="of the starting loss",
    )
    readings: int = 40

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        found: dict[str, Sign] = {}
        for layer, (_, values) in judged_losses(history, facts).items():
            if values.size < FEWEST:
                continue
            start, window = starting_level(values, history, facts), values[-self.readings :]
            if facts.loss.labels.chance > start:  # a trained network starts low
                start = facts.loss.labels.chance
            swing, level = (f(window) / max(start, 1e-30) for f in (roughness, median))
            certain = swing * min(1.0, math.sqrt(window.size / self.readings))
            if certain >= self.info and level >= self.progress and not learns_between_jumps(layer, start, facts):
                severity = "warning" if certain >= self.warning else "info"
                text = f"the loss swings by {swing:.0%} of its starting level and stands at {level:.0%} of it"
                found[layer] = Sign(severity, text, {"swing": swing, "level": level, "start": start})
        return found


@dataclass(frozen=True, kw_only=True)
class DivergingLoss(Condition):
    """The loss is far above its start and above the level of guessing.

        median of the last 5 readings >= limit * max(start, guessing)

    A spike ends sooner. The losses of changing tasks, and of targets that grow, stay below. A loss of class labels that
    falls as far below zero diverges too: a cross entropy is maximised.

    Settings:
        warning, critical: smallest factor of each severity.
        steps: optimizer steps before it is judged.
    """

    cite = AUTOTRAINER
    reads = ("loss",)
    explains = ("oscillating-loss", "stalled-learning")
    explanation = (
        "The loss is above that of a network without any training: steps overshoot, or the gradient "
        "points the wrong way (a sign, a loss that should be maximised)."
    )
    remedies = (LOWER_RATE, CLIP, Remedy("check the sign of the loss, and that each update belongs to this loss"))
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"a loss that leaves its start upwards": _diverging}
    persistence: int = 3
    warning: float = limit(2, "policy: no healthy run of the corpus stays above 1", ease=0.8, low=1.0, unit="times")
    critical: float = limit(10, "policy: ten times the start", ease=0.8, low=1.0, unit="times")
    steps: float = limit(16, "policy: some runs recover from a first step that was too long", unit="steps")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        found = {} if facts.several_objectives else self._maximised(history, facts.loss.labels.chance)
        for layer, (steps, values) in judged_losses(history, facts).items():
            if values.size < 5 or steps[-1] < self.steps:
                continue
            known = facts.loss.known_guesses()
            start, now = max([float(values[0]), median(values[:3]), *known]), median(values[-5:])
            if start > 0 and (severity := graded(now / start, self.limits())) is not None:
                text = f"the loss is {now:.3g}, {now / start:.2g} times that of the start ({start:.3g})"
                found[layer] = Sign(severity, text, {"now": now, "start": start})
        return found

    def _maximised(self, history: History, guessing: float) -> dict[str, Sign]:
        found: dict[str, Sign] = {}
        for layer in history.layers("loss") if guessing > 0 else ():
            steps, values = history.series("loss", layer)
            now = median(values[-5:])
            if values.size >= 5 and steps[-1] >= self.steps and (severity := graded(-now / guessing, self.limits())):
                text = f"the loss is {now:.3g}, below zero: a cross entropy of classes is maximised"
                found[layer] = Sign(severity, text, {"now": now, "guessing": guessing})
        return found


@dataclass(frozen=True, kw_only=True)
class StalledLearning(Condition):
    """The loss has not fallen since the start: it never began to learn.

    Over at least `steps` steps, the median of the last half of the readings is not below (1 - progress) of the starting
    level, and Kendall's tau shows no significant fall. A plateau after a fall is no stall, and a resumed run is not
    judged. With fewer than `readings` readings (at least 16) the level must also be certain:

        2 * 1.25 * roughness of the last half / sqrt(n / 2) <= start / 20     (1.25 s / sqrt(m): error of a median of m)

    A loss at or above the level of guessing, if the classes are known, counts as a stall too, unless it has fallen by
    more than `progress` of that level in the last half. So does a squared error that stays, over its last half, at or
    above that of predicting the mean of the targets. A loss that falls to half of its start between its jumps is not a
    stall.

    Settings:
        chance: smallest share of the loss of guessing that counts as guessing.
        progress: relative fall that counts as learning.
        steps: optimizer steps before it is judged.
        readings: number of readings from which on it is judged however noisy it is.
    """

    cite = AUTOTRAINER
    reads = ("loss",)
    explanation = (
        "The loss is where it was at the start. Either nothing moves (learning rate, dead units, no gradient), or "
        "there is nothing to learn (targets shuffled against inputs). A run from trained weights looks the same."
    )
    remedies = (
        Remedy("raise the learning rate"),
        Remedy("check that the targets belong to the inputs, and that the loss is what backward() is called on"),
        SCALED_INIT,
    )
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"a loss that stands still": _standing_still}
    persistence: int = 5
    progress: float = measured(
        (0.05, 0.03, 0.02, 0.01, 0.005, 0.002, 0.0), ease=2, high=1.0, unit="of the starting loss"
    )
    steps: float = limit(200, "policy: a warm-up may take that long", unit="steps")
    readings: int = 40
    chance: float = limit(
        0.97,
        "policy: label noise may leave a loss a few percent below guessing",
        ease=0.98,
        high=1.0,
        unit="of guessing",
    )

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        if facts.resumed:
            return {}
        found: dict[str, Sign] = {}
        guessing = facts.loss.labels.chance
        for layer, (steps, values) in judged_losses(history, facts).items():
            start = max(starting_level(values, history, facts), median(values[:5]))
            if learns_between_jumps(layer, start, facts):
                continue
            now = median(values[-3:])
            half = values[values.size // 2 :]
            falling = kendall_tau(half) <= -tau_limit(half.size) and median(half[:3]) - now >= self.progress * guessing
            if values.size >= 3 and steps[-1] >= self.steps and 0 < self.chance * guessing <= now and not falling:
                text = f"the loss is {now:.4g} after {steps[-1]:.0f} steps; guessing by the frequency of the classes"
                found[layer] = Sign("warning", f"{text} gives {guessing:.4g}", {"now": now, "chance": guessing})
                continue
            if values.size < FEWEST or steps[-1] - steps[0] < self.steps:
                continue
            late = values[values.size // 2 :]
            if (sign := self._at_the_mean(late, int(steps[-1]), facts.loss.regression.variance)) is not None:
                found[layer] = sign
                continue
            if not self._certain(late, start):
                continue
            now = median(late)
            tau = kendall_tau(values)
            if start > 0 and now >= (1 - self.progress) * start and tau > -tau_limit(values.size):
                text = f"the loss is {now:.4g} after {steps[-1]:.0f} steps; at the start it was {start:.4g}"
                found[layer] = Sign("warning", text, {"now": now, "start": start, "tau": tau})
        return found

    def _at_the_mean(self, late: Array, step: int, variance: float) -> Sign | None:
        now = median(late)
        if not 0 < self.chance * variance <= now or kendall_tau(late) <= -tau_limit(late.size):
            return None
        text = f"the loss is {now:.4g} after {step} steps; predicting the mean of the targets gives {variance:.4g}"
        return Sign("warning", text, {"now": now, "variance": variance})

    @staticmethod
    def _certain(late: Array, start: float) -> bool:
        return 2 * 1.25 * roughness(late) / math.sqrt(late.size) <= CERTAIN * start
