"""A loss of evaluations that rises while the training loss falls."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import Condition, Sign
from homeostat.diagnosis.example_histories import READINGS, ExampleHistory, Point, wobble
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import LOGGED, History
from homeostat.diagnosis.loss_series import EVALUATION
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.sources import BENGIO
from homeostat.diagnosis.thresholds import EARLY_NOTICE, limit
from homeostat.diagnosis.trends import kendall_tau, median, roughness

PASSES = 3
"""Evaluations whose median is the present level; the level at the best one is the median of it and its neighbours."""
EVALUATIONS = frozenset({"val", "valid", "validation", "eval", "evaluation", "test", "dev", "heldout", "holdout"})
"""Words for data that are not trained on, in the names of logged numbers."""


def _overfitted(t: float, ill: float) -> list[Point]:
    reading = round(t * READINGS)
    evaluation = 0.5 * math.exp(8 * ill * max(t - 0.5, 0.0)) + (1 - ill) * math.exp(-3 * t)
    training = 2.0 * math.exp(-5 * t)
    return [
        (EVALUATION, NETWORK, evaluation * (1 + wobble(reading, 0.01))),
        ("step-loss", NETWORK, training * (1 + wobble(reading + 5, 0.02))),
    ]


@dataclass(frozen=True, kw_only=True)
class Overfitting(Condition):
    """The loss of the script's own evaluations has risen since its lowest value, and the training loss went on falling.

    With b the level at the best evaluation, n the present level, and s the roughness of the evaluations, n - b is at
    least `warning` * b and `noise` * s, the evaluations since the best one rise more often than they fall, and the
    median training loss between the last evaluations is at most `training` times that around the best one. Only
    evaluations since the last boundary count. Where none was seen, a logged number counts whose name says that it is
    the loss of an evaluation. Runs with several objectives, a policy gradient, target networks, or data that have
    changed are not judged.

    Settings:
        passes: evaluations since the best one.
        noise: times the roughness of the evaluations.
        order: Kendall's tau of the evaluations since the best one.
        training: training loss over that at the best evaluation.
    """

    cite = BENGIO
    reads = (EVALUATION, "step-loss")
    explanation = (
        "The network fits what is particular to the training data: since the best evaluation the loss on other data "
        "has risen, while the training loss went on falling."
    )
    remedies = (
        Remedy("keep the weights of the best evaluation, and stop there (early stopping)"),
        Remedy("more data, or augmentation of those there are"),
        Remedy("more weight decay, dropout or label smoothing; a smaller network"),
        Remedy("if accuracy still rises, the network is only too sure of its mistakes: label smoothing"),
    )
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"evaluations that become worse": _overfitted}
    persistence: int = 2
    info: float = limit(0.1, EARLY_NOTICE, ease=0.7, unit="of the best")
    warning: float = limit(0.25, "policy: a quarter above the best evaluation", ease=0.7, unit="of the best")
    passes: float = limit(4, "policy: one worse evaluation may be chance", unit="evaluations")
    noise: float = limit(4, "policy: the lowest of many noisy values is too low by 2 to 3 deviations", ease=0.7)
    order: float = limit(0.5, "policy: three of four pairs rise", ease=0.6, high=1.0)
    training: float = limit(0.9, "policy: the training loss falls by a tenth at least", ease=1.1)

    def clock(self, history: History, facts: Facts) -> int:
        return history.clock((_evaluations(history),))

    def layer_clock(self, history: History, layer: str, default: int) -> int:
        return history.clock((_evaluations(history),))

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        changed = facts.earlier.evaluations or facts.several_objectives or facts.moving_targets
        steps, values = history.series(_evaluations(history), NETWORK)
        since = history.boundaries[-1][0] if history.boundaries else -math.inf
        steps, values = steps[steps > since], values[steps > since]
        if changed or values.size < self.passes + 2 or not np.isfinite(values).all() or values.max() > 1e100:
            return {}
        best = int(values.argmin())
        after = values[best + 1 :]
        if after.size < self.passes:
            return {}
        level, now = median(values[max(best - 1, 0) : best + 2]), median(values[-PASSES:])
        risen = now - level
        rises = risen >= self.noise * roughness(values) and kendall_tau(after) >= self.order
        then, trained = self._training(history, steps, best)
        if not (level > 0 and rises and trained <= self.training * then and risen >= self.info * level):
            return {}
        text = (
            f"the evaluation loss rose from {level:.3g} at step {steps[best]:.0f} to {now:.3g}, while the training "
            f"loss fell from {then:.3g} to {trained:.3g}"
        )
        numbers = {"best": level, "best_step": int(steps[best]), "now": now, "training_then": then, "training": trained}
        return {NETWORK: Sign("warning" if risen >= self.warning * level else "info", text, numbers)}

    def _training(self, history: History, steps: np.ndarray, best: int) -> tuple[float, float]:
        """Median training loss around the best evaluation and before the last one; NaN if unknown."""
        layers = history.layers("step-loss")
        if len(layers) != 1:
            return math.nan, math.nan
        around = steps[max(best - 1, 0)], steps[best + 1]
        last = steps[-PASSES], steps[-1]
        then, now = (median(history.between("step-loss", layers[0], *ends)) for ends in (around, last))
        return then, now


def _evaluations(history: History) -> str:
    """The series of evaluation losses: those that were seen, or the first that was logged under such a name."""
    known = history.vitals()
    return EVALUATION if EVALUATION in known else next(filter(_is_evaluation_loss, known), EVALUATION)


def _is_evaluation_loss(name: str) -> bool:
    """Whether a logged number is the loss of an evaluation by its name: "val_loss", "eval/loss", "loss/valid", ..."""
    words = set(re.split(r"[^a-z]+", name.removeprefix(LOGGED).lower()))
    return name.startswith(LOGGED) and "loss" in words and bool(words & EVALUATIONS)
