"""The labels of a run over time: the loss of guessing, and the order in which the classes come."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median

import torch

from homeostat.diagnosis.loss_facts import LabelFacts
from homeostat.shell.hooks.loss_graph import MOST_CLASSES, LossReading

KEPT = 160
"""Number of stored readings."""
GONE = 40
"""Number of steps without a class after which it counts as absent."""


class LabelCollector:
    """Counts the labels of each class at the latest readings."""

    def __init__(self) -> None:
        self._classes, self._items = 0, 1
        self._labels: deque[tuple[int, list[int], int]] = deque(maxlen=KEPT)  # (step, counts, classes so far)
        self._last_seen: dict[int, int] = {}
        self._returned: set[int] = set()

    def see(self, step: int, reading: LossReading) -> None:
        """Count the labels of one loss."""
        if reading.labels is None or not 1 < reading.classes <= MOST_CLASSES or not reading.labels.numel():
            return
        self._classes = reading.classes
        self._items = reading.labels.numel() if reading.summed else 1
        counts = torch.bincount(reading.labels, minlength=reading.classes).tolist()
        if len(counts) != reading.classes:
            return
        before = self._labels[-1][0] if self._labels else step
        for label, count in enumerate(counts):
            if count:
                last = self._last_seen.get(label, step)
                if step - last > GONE and last < before:  # it did not exist at the previous reading
                    self._returned.add(label)
                self._last_seen[label] = step
        self._labels.append((step, counts, len(self._last_seen)))

    def facts(self) -> LabelFacts:
        """The facts so far."""
        counts = [numbers for _, numbers, _ in self._labels]
        quarter = max(len(counts) // 4, 1)
        order, share = self._order(counts)
        return LabelFacts(
            classes=self._classes,
            chance=self._items * _entropy(counts),
            early_entropy=_entropy(counts[:quarter]),
            late_entropy=_entropy(counts[-quarter:]),
            order=order,
            share=share,
        )

    def _order(self, counts: Sequence[Sequence[int]]) -> tuple[str, float]:
        """The order of the classes: whether a batch has few of the classes so far, and whether classes come back."""
        if len(counts) < 8 or len(self._last_seen) < 3:
            return "", math.nan
        share = median(sum(n > 0 for n in numbers) / min(met, sum(numbers)) for _, numbers, met in self._labels)
        if share > 0.5:
            return "", share
        return ("recurring" if self._returned or self._interleaved(counts) else "vanishing"), share

    def _interleaved(self, counts: Sequence[Sequence[int]]) -> bool:
        """Whether classes come back between the stored readings."""
        runs = 0
        for column in zip(*counts, strict=True):
            present = [n > 0 for n in column]
            runs += max(sum(a and not b for a, b in zip(present, [*present[1:], False], strict=True)) - 1, 0)
        return runs > len(self._last_seen)


def _entropy(counts: Sequence[Sequence[int]]) -> float:
    """Entropy of the labels of several readings (nats), NaN if there are none."""
    totals = [sum(column) for column in zip(*counts, strict=True)]
    total = sum(totals)
    return -sum(n / total * math.log(n / total) for n in totals if n) if total else math.nan
