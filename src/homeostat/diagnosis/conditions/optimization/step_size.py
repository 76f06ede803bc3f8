"""Optimizer steps that are too long or too short, judged by what they change and by what they can gain."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from homeostat.core.finding import Severity
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import SYMPTOMS, Condition, Sign
from homeostat.diagnosis.conditions.optimization.gradients import ENORMOUS
from homeostat.diagnosis.conditions.optimization.loss import judged_losses, starting_level
from homeostat.diagnosis.conditions.plasticity.units import RECTIFIED
from homeostat.diagnosis.example_histories import LAYERS, ExampleHistory, Point
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.remedies import CLIP
from homeostat.diagnosis.sources import BENGIO
from homeostat.diagnosis.steps import STEP_VITALS, Steps, guessing_level, measured_steps, network_of
from homeostat.diagnosis.thresholds import limit
from homeostat.diagnosis.trends import median

SATURATED = 90
"""Difference of logits of attention (nats) from which on it is saturated."""


def _too_long(t: float, ill: float) -> list[Point]:
    points: list[Point] = [("loss", NETWORK, 2.0 * math.exp(-3 * (1 - ill) * t) * (1 + (9 * ill if t > 0.1 else 0)))]
    for layer in LAYERS:
        points += [("update-ratio", layer, 1e-3 * 10 ** (3 * ill)), ("gradient-norm", layer, 0.5 * (1 + 4 * ill))]
    return points


@dataclass(frozen=True, kw_only=True)
class LearningRateTooHigh(Condition):
    """Steps were too long, with an effect: the loss does not fall, or units are lost.

    A step is too long if it changes the weights by a large part of their norm, and its gain is not small,

        r = ||dw|| / ||w|| >= change   and   g = sum_l ||g_l|| ||dw_l|| / loss >= gain,

    or if it is a third as long and a linear loss would reach zero twice over (g >= steep), or a sixth as long and the
    loss at the next reading is `jump` times the start. Weights that start at zero always change by more than their
    norm. They are recognised by a small sum_l ||g_l|| ||w_l|| / loss and not judged by their change.

    It counts if since the last such step the loss stays at its start (or at the level of guessing); if the loss jumps
    at the first such steps and stays high; if most units of a layer become dormant or saturated right after them, or
    attention saturates; or if numbers overflow. A rate that was raised tenfold counts too, if the loss had come down to
    half of that of guessing and is at guessing since.

    Settings:
        change, gain, steep: as above.
        pull: smallest sum_l ||g_l|| ||w_l|| / loss.
        stuck: share of the start (or of guessing) above which the loss has not fallen.
        jump: factor by which the loss rises above its start.
        units: share of the units of a layer that are lost.
        steps: steps after the first step that was too long, before a loss is judged.
    """

    cite = BENGIO
    reads = (*STEP_VITALS, "dormant-units", "saturated-units", "non-finite")
    explains = (
        *(name for name in SYMPTOMS if name != "learning-rate-too-high"),
        *("non-finite", "diverging-loss", "loss-spikes", "schedule-ends-training", "loss-scale-at-its-floor"),
    )
    explanation = (
        "The steps are so long that they overshoot: the loss jumps up instead of down and units are driven into their "
        "flat parts. Dead units, collapsed ranks and overflow are consequences."
    )
    remedies = (
        Remedy("lower the learning rate by a factor of 3 to 100: 1e-3 is usual for Adam, 0.01 to 0.1 for SGD"),
        Remedy("warm the learning rate up over the first few hundred steps"),
        CLIP,
    )
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"steps as long as the weights": _too_long}
    persistence: int = 1
    change: float = limit(0.3, "policy: three to a hundred times that of healthy runs", ease=0.8, unit="of the weights")
    gain: float = limit(0.15, "policy: labels without any order give less", ease=0.8, unit="of the loss")
    pull: float = limit(0.3, "policy: weights that begin near zero have less", ease=0.8, unit="of the loss")
    steep: float = limit(2, "policy: a linear loss would be gone twice over", ease=0.8, unit="of the loss")
    stuck: float = limit(0.95, "policy: a loss that learns leaves its start", ease=0.9, high=1.0, unit="of the start")
    jump: float = limit(2.5, "policy: large steps of runs that go well double the loss at most", ease=0.8, low=1.0)
    units: float = limit(0.7, "policy: most units of a layer no longer tell inputs apart", ease=0.8, high=1.0)
    steps: float = limit(50, "policy: some runs recover from a first step that was too long", unit="steps")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        losses = {k: series for k in history.layers("loss") if (series := history.series("loss", k))[0].size}
        judged, found = judged_losses(history, facts), dict[str, Sign]()
        for name, steps in measured_steps(history, losses, facts).items():
            start, overflowed = starting_level(steps.loss, history, facts), self._overflowed(history, facts, name)
            where = self._too_long(steps, start)
            if not where.size or steps.pull[0] * steps.loss[0] >= ENORMOUS * guessing_level(
                facts, float(steps.loss[0])
            ):
                continue  # gradients that are enormous before the first step are not caused by its length
            harm = overflowed or (name in judged and self._of_loss(steps, where, start, facts))
            harm = harm or self._of_units(history, facts, name, float(steps.at[where[0]])) or self._of_attention(facts)
            if not harm:
                continue
            worst, now = int(where[np.argmax(steps.change[where])]), median(steps.loss[-5:])
            change, gain = float(steps.change[worst]), float(steps.gain[worst])
            severity: Severity = "critical" if overflowed or now >= self.stuck * start else "warning"
            text = f"step {steps.at[worst]:.0f} changed the weights by {change:.2g} times their norm; {harm}"
            numbers = {"change": change, "gain": gain, "step": int(steps.at[worst]), "start": start, "now": now}
            found[name] = Sign(severity, text, numbers)
        for name, (_, values) in judged.items():
            if name not in found and (sign := self._of_the_rate(values, name, facts)) is not None:
                found[name] = sign
        return found

    def _too_long(self, steps: Steps, start: float) -> NDArray[np.intp]:
        """Indices of the readings at which a step was too long."""
        with np.errstate(all="ignore"):
            long = (steps.change >= self.change) & (steps.gain >= self.gain) & (steps.pull >= self.pull)
            long |= (steps.change >= self.change / 3) & (steps.gain >= self.steep)
            after = np.append(steps.loss[1:], steps.loss[-1:])
            if start > 0:
                long |= (steps.change >= self.change / 6) & (after >= self.jump * start)
        return np.flatnonzero(long)

    def _of_loss(self, steps: Steps, where: NDArray[np.intp], start: float, facts: Facts) -> str:
        """The effect of too long steps on the loss, "" if there is none."""
        first, last = int(where[0]), int(where[-1])
        level, now = guessing_level(facts, start), median(steps.loss[-5:])
        if steps.at[-1] - steps.at[first] < self.steps or steps.loss.size < 5 or not start > 0:
            return ""
        since = steps.loss[min(last, steps.loss.size - 3) :]
        learned = min(median(since[i : i + 3]) for i in range(since.size - 2)) < 0.7 * level
        if now >= self.stuck * level and not learned:
            return f"the loss is {now:.3g}, and at the start it was {start:.3g}"
        top = float(np.max(steps.loss[first : first + 9]))
        if top >= self.jump * start and now >= 0.3 * start:
            return f"the loss jumped from {start:.3g} to {top:.3g}, and is {now:.3g} now"
        return ""

    def _of_units(self, history: History, facts: Facts, name: str, begin: float) -> str:
        """Units that were lost within 128 steps after the first too long step and are lost now."""
        for vital, word in (("dormant-units", "dormant"), ("saturated-units", "saturated")):
            for layer in _layers_of(history, vital, name, facts):
                if word == "saturated" and facts.nonlinearity.get(layer) in RECTIFIED:
                    continue
                at, shares = history.series(vital, layer)
                soon = shares[(at > begin) & (at <= begin + 128)]
                if soon.size < 3 or not min(median(soon[-3:]), median(shares[-3:])) >= self.units:
                    continue
                if shares[0] <= soon[-1] - 0.3:
                    return f"{soon[-1]:.0%} of the units of {layer} were {word} soon after"
        return ""

    @staticmethod
    def _of_attention(facts: Facts) -> str:
        """Attention that is saturated now and was not at the start."""
        seen = facts.loss.attention
        if seen.spread >= SATURATED and seen.spread >= 20 * seen.first_spread:
            return f"the logits of attention differ by {seen.spread:.3g}, at the first step by {seen.first_spread:.3g}"
        return ""

    def _of_the_rate(self, values: Array, name: str, facts: Facts) -> Sign | None:
        """A rate that was raised, after which what had been learned was lost."""
        rate = facts.rates.get(network_of(name, frozenset(o.network for o in facts.optimizers if o.network)))
        known = facts.loss.known_guesses()
        if rate is None or not known or values.size < 12 or not rate.now >= 0.5 * rate.highest >= 5 * rate.first > 0:
            return None
        best, now = min(median(values[i : i + 3]) for i in range(values.size - 5)), median(values[-5:])
        if best > 0.5 * min(known) or now < self.stuck * min(known):
            return None
        text = f"the learning rate was raised from {rate.first:.3g} to {rate.highest:.3g}, and the loss, which had been"
        numbers = {"first": rate.first, "highest": rate.highest, "best": best, "now": now}
        return Sign("critical", f"{text} {best:.3g}, is {now:.3g}", numbers)

    def _overflowed(self, history: History, facts: Facts, name: str) -> str:
        """Numbers that are not finite now."""
        for layer in _layers_of(history, "non-finite", name, facts):
            values = history.series("non-finite", layer)[1]
            if values.size and values[-1] > 0 and not facts.loss_scaled:
                return f"numbers of {layer} are not finite now"
        return ""


def _layers_of(history: History, vital: str, name: str, facts: Facts) -> Iterable[str]:
    """The layers of the network that a loss belongs to."""
    labels = frozenset(o.network for o in facts.optimizers if o.network)
    return (layer for layer in history.layers(vital) if network_of(layer, labels) == network_of(name, labels))


def _too_short(t: float, ill: float) -> list[Point]:
    points: list[Point] = [("loss", NETWORK, 2.0 * math.exp(-3 * (1 - ill) * t))]
    return points + [("update-ratio", layer, 1e-3 * 10 ** (-5 * ill)) for layer in LAYERS]


@dataclass(frozen=True, kw_only=True)
class LearningRateTooLow(Condition):
    """All steps so far can have lowered the loss by a few percent at most, although the gradients are in order.

        sum over steps of sum_l ||g_l|| ||dw_l|| / loss <= reach,   ||dw|| / ||w|| <= change,
        sum_l ||g_l|| ||w_l|| / loss >= pull,   loss now / start >= progress

    Not judged: a warm-up (steps that grow), a run that continues from trained weights, and a decayed schedule at the
    end of a run. If the norm of all gradients is the same at every reading, they are clipped at every step; they are
    small because of that, and `pull` is not required.

    Settings:
        reach, change, pull, progress: as above.
        steps: optimizer steps before it is judged.
    """

    cite = BENGIO
    reads = STEP_VITALS
    explains = ("stalled-learning", "vanishing-gradients", "rank-collapse")
    explanation = (
        "The gradients point somewhere, but the steps are so short that the weights stay where they are: the loss "
        "would need many times as many steps to come down."
    )
    remedies = (
        Remedy("raise the learning rate by a factor of 10 to 1000: 1e-3 is usual for Adam, 0.01 to 0.1 for SGD"),
        Remedy("look for a schedule or a parameter group that sets the learning rate to (nearly) zero"),
        Remedy("clip gradients to a larger norm (1 is usual)"),
    )
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"steps that change nothing": _too_short}
    persistence: int = 2
    reach: float = limit(0.1, "policy: a tenth of the loss at most", ease=1.5, unit="of the loss")
    change: float = limit(3e-4, "policy: a thirtieth of that of healthy runs", ease=1.5, unit="of the weights")
    pull: float = limit(0.05, "policy: healthy runs start with 0.3 to 100", ease=0.8, unit="of the loss")
    progress: float = limit(0.9, "policy: a run that learns has left this level behind", ease=0.95, high=1.0)
    steps: float = limit(150, "policy: a warm-up may take that long", unit="steps")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        if facts.resumed:
            return {}
        found: dict[str, Sign] = {}
        for name, steps in measured_steps(history, judged_losses(history, facts), facts).items():
            known = ~np.isnan(steps.change)
            at, change = steps.at[known], steps.change[known]
            if at.size < 8 or at[-1] < self.steps or not float(np.max(change)) <= self.change:
                continue
            quarter = max(at.size // 4, 1)
            growing = median(change[-quarter:]) > 1.5 * median(change[:quarter])
            start, now = max(float(steps.loss[0]), median(steps.loss[:5])), median(steps.loss[-5:])
            level = guessing_level(facts, start)
            with np.errstate(all="ignore"):
                reached = float(np.sum(steps.gain[known] * np.diff(at, prepend=0.0)))
            norm = self._clipped_to(history, facts, name)
            weak = (norm is None and not median(steps.pull[known]) >= self.pull) or not reached <= self.reach
            if growing or weak or not now >= self.progress * level or start < 0.8 * facts.loss.labels.chance:
                continue
            text = (
                f"a step changes the weights by {median(change):.1e} of their norm; all {at[-1]:.0f} together can have "
                f"lowered the loss by {reached:.1e} of it at most, and it is {now:.4g}"
            )
            if norm is not None:
                text += f"; the gradients are clipped to a norm of {norm:.1e} at every step"
            found[name] = Sign("warning", text, {"change": median(change), "reached": reached, "now": now})
        return found

    @staticmethod
    def _clipped_to(history: History, facts: Facts, name: str) -> float | None:
        """The norm of all gradients of the network of a loss, where it is the same at every reading."""
        norms = [history.series("gradient-norm", k)[1] for k in _layers_of(history, "gradient-norm", name, facts)]
        norms = [values for values in norms if values.size >= 8]
        if not norms or len({values.size for values in norms}) > 1:
            return None
        total = np.sqrt(np.sum([values**2 for values in norms], axis=0))
        middle = median(total)
        return middle if middle > 0 and float(np.max(np.abs(total - middle))) <= 1e-3 * middle else None
