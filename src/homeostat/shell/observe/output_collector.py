"""The outputs and targets that the losses of a run compare, over time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import pvariance

import torch

from homeostat.diagnosis.loss_facts import OrderFacts, OutputFacts, RegressionFacts
from homeostat.shell.hooks.loss_graph import Criterion
from homeostat.shell.observe.layer_collector import middle

RECENT = 5
"""Number of readings whose median is the present value."""
KEPT = 160
"""Number of stored means and variances of targets."""
FEWEST = 8
"""Smallest number of outputs that are compared with each other."""
MOST = 4096
"""Largest number of outputs that are looked at."""


@dataclass(frozen=True)
class OutputReading:
    """The outputs and targets of one loss.

    Args:
        spread: standard deviation of the outputs within a batch: of log-probabilities (mean of the classes), logits,
            or of numbers over that of their targets.
        share: share of the class that is predicted most often; NaN for numbers.
        label_share: share of the most frequent class in the targets; NaN for numbers.
        size, offset: root mean square of the targets, and their mean over their deviation; NaN for classes.
        error: mean squared error over the variance of the targets; NaN for classes.
        mean, variance: of the targets; NaN for classes.
    """

    spread: float
    share: float = math.nan
    label_share: float = math.nan
    size: float = math.nan
    offset: float = math.nan
    error: float = math.nan
    mean: float = math.nan
    variance: float = math.nan


class OutputCollector:
    """Keeps the latest readings."""

    def __init__(self) -> None:
        self._last: deque[OutputReading] = deque(maxlen=RECENT)
        self._targets: deque[tuple[float, float]] = deque(maxlen=KEPT)

    def see(self, compared: Sequence[Criterion]) -> None:
        """Take in the comparisons of a loss: the first with enough outputs."""
        for one in compared:
            if (seen := read_outputs(one)) is not None:
                self._last.append(seen)
                if not math.isnan(seen.mean):
                    self._targets.append((seen.mean, seen.variance))
                return

    def outputs(self) -> OutputFacts:
        """Facts about outputs at the latest readings."""
        spread, share, label_share = (self._middle(name) for name in ("spread", "share", "label_share"))
        return OutputFacts(len(self._last), spread, share, label_share)

    def regression(self, variance: float) -> RegressionFacts:
        """Facts about targets that are numbers at the latest readings.

        Args:
            variance: loss of predicting the mean of the targets.
        """
        return RegressionFacts(self._middle("size"), self._middle("offset"), self._middle("error"), variance)

    def order(self) -> OrderFacts:
        """Facts about the order of targets that are numbers."""
        if len(self._targets) < FEWEST:
            return OrderFacts(len(self._targets))
        means = [mean for mean, _ in self._targets]
        inner = middle([variance for _, variance in self._targets])
        whole, half = inner + pvariance(means), len(means) // 2
        spans = [max(part) - min(part) for part in (means[:half], means[half:])]
        recurring = min(spans) >= 0.5 * (max(means) - min(means)) > 0
        return OrderFacts(len(means), inner / whole, recurring)

    def _middle(self, name: str) -> float:
        return middle([getattr(seen, name) for seen in self._last])


def read_outputs(one: Criterion) -> OutputReading | None:
    """What outputs and targets are like; None for fewer than `FEWEST` of them."""
    scores, targets = one.scores.detach(), one.targets.detach()
    if one.kind == "classes":
        if scores.ndim > 2:
            scores, targets = scores.movedim(1, -1).flatten(0, -2), targets.flatten()
        kept = (targets != one.ignored).nonzero()[:MOST, 0]
        scores, targets = scores[kept].float(), targets[kept]
        if len(scores) < FEWEST or scores.ndim != 2:
            return None
        share, label_share = (
            float(torch.bincount(classes, minlength=1).max()) / len(classes) for classes in (scores.argmax(1), targets)
        )
        return OutputReading(float(scores.clamp_min(-100.0).std(0).mean()), share, label_share)
    scores, targets = scores.flatten()[:MOST].float(), targets.flatten()[:MOST].float()
    if len(scores) < FEWEST or scores.shape != targets.shape:
        return None
    if one.kind == "binary":
        share = float((scores > one.middle).float().mean())
        label_share = float(targets.mean())
        logits = torch.logit(scores, 1e-6) if one.middle else scores
        return OutputReading(float(logits.std()), max(share, 1 - share), max(label_share, 1 - label_share))
    deviation = float(targets.std())
    if not deviation > 0:
        return None
    error = float((scores - targets).square().mean()) / deviation**2
    size, offset = float(targets.square().mean().sqrt()), abs(float(targets.mean())) / deviation
    mean, variance = float(targets.mean()), deviation**2
    return OutputReading(float(scores.std()) / deviation, math.nan, math.nan, size, offset, error, mean, variance)
