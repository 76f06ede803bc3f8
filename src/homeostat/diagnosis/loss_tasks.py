"""Where a loss jumps up because the problem has changed, and how low it was before: found step by step."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

BEFORE, AFTER = 16, 8
"""Losses before and after a step that are compared."""
CLEAR = 8.0
"""Standard errors by which the losses after a jump lie above those before it."""
HIGHER = 0.1
"""Part of the level of the first losses by which a jump rises at least."""
FIRST = 4
"""Losses that give this level."""
MOST = 512
"""Jumps that are kept; of more, every second of the older half is dropped."""


class LossTasks:
    """The jumps of one loss, from its value at every step.

        median of the 8 losses after the step - mean of the 16 before it
            > 8 s sqrt(1/8 + 1/16)   and   > a tenth of the first losses,     s: standard deviation before it

    Single spikes are no jumps. Tasks of less than 24 steps are not seen.

    >>> seen = LossTasks()
    >>> seen.extend([2 / (1 + step % 50) for step in range(120)])
    >>> [(step, round(level, 3)) for step, level in seen.ends]
    [(50, 0.043), (100, 0.043)]
    """

    def __init__(self) -> None:
        self.ends: list[tuple[int, float]] = []
        self.step = 0
        self._window: deque[float] = deque(maxlen=BEFORE + AFTER)
        self._first: list[float] = []

    def extend(self, losses: Sequence[float]) -> None:
        """Take in the losses of the next steps."""
        self._first += [loss for loss in losses if math.isfinite(loss)][: FIRST - len(self._first)]
        if self._calm(losses):
            self.step += len(losses)
            self._window.extend(losses)
            return
        for loss in losses:
            self.step += 1
            if not math.isfinite(loss):
                self._window.clear()
                continue
            self._window.append(loss)
            if len(self._window) == BEFORE + AFTER:
                self._judge()

    def _calm(self, losses: Sequence[float]) -> bool:
        """Whether no mean over a few losses rises enough, which is soon seen of all together."""
        values = np.concatenate([self._window, losses])
        if not np.isfinite(values).all():
            return False
        if len(values) < BEFORE + AFTER:
            return True
        sums = np.concatenate([[0.0], np.cumsum(values)])
        levels = (sums[BEFORE:-AFTER] - sums[: -BEFORE - AFTER]) / BEFORE
        rises = (sums[BEFORE + AFTER :] - sums[BEFORE:-AFTER]) / AFTER - levels
        return not bool((rises > 0.99 * self._least()).any())

    def _least(self) -> float:
        """By which a jump rises at least."""
        return HIGHER * abs(sum(self._first)) / max(len(self._first), 1)

    def _judge(self) -> None:
        window = list(self._window)
        before, after = window[:BEFORE], window[BEFORE:]
        level = sum(before) / BEFORE
        rise = sum(after) / AFTER - level
        if rise <= self._least():
            return
        deviation = math.sqrt(sum((x - level) ** 2 for x in before) / (BEFORE - 1))
        rise = median(after) - level
        if rise <= self._least() or rise <= CLEAR * deviation * math.sqrt(1 / AFTER + 1 / BEFORE):
            return
        at = _split(window)
        before = window[max(at - AFTER, 0) : at]
        self.ends.append((self.step - len(window) + at, sum(before) / len(before)))
        if len(self.ends) > MOST:
            self.ends = self.ends[: MOST // 2 : 2] + self.ends[MOST // 2 :]
        for _ in range(at):
            self._window.popleft()

    def state_dict(self) -> dict[str, Any]:
        """JSON-friendly state."""
        return {
            "ends": [list(end) for end in self.ends],
            "step": self.step,
            "window": list(self._window),
            "first": self._first,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.ends = [(int(step), float(level)) for step, level in state["ends"]]
        self.step, self._first = int(state["step"]), list(state["first"])
        self._window = deque(state["window"], maxlen=BEFORE + AFTER)


def _split(window: list[float]) -> int:
    """Where a step explains most of the variance of these losses."""
    values = np.array(window)
    counts = np.arange(1, len(values))
    left = np.cumsum(values)[:-1]
    right = values.sum() - left
    apart = right / (len(values) - counts) - left / counts
    explained = np.where(apart > 0, apart**2 * counts * (len(values) - counts), 0.0)
    return int(np.argmax(explained)) + 1
