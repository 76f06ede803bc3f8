"""Settings of arms that are chosen on development seeds, as the harness records it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from homeostat.core.errors import BadSetting

Setting = Mapping[str, Any]
"""Knob of an arm -> value, plain numbers and texts."""

FIRST_DEVELOPMENT = 1000
"""Development seeds are 1000, 1001, ...; judged seeds never are."""


def development_seeds(count: int) -> tuple[int, ...]:
    """The first development seeds.

    >>> development_seeds(2)
    (1000, 1001)
    """
    return tuple(range(FIRST_DEVELOPMENT, FIRST_DEVELOPMENT + count))


@dataclass(frozen=True)
class Tuning:
    """What is tried, and by which rule one setting of each arm is chosen.

    Args:
        by: measure; the setting with the highest mean over the seeds is chosen, of equal ones the first.
        tried: arm -> its settings. Every arm has as many, so baselines get the same effort. An arm that is not named
            has nothing to tune.
        seeds: number of development seeds.
        lowest: choose the lowest mean instead.

    Raises:
        BadSetting: the numbers of settings differ, or there are none.

    >>> Tuning("late", {"plain": ({"rate": 1e-3}, {"rate": 3e-3})}).first("plain")
    {'rate': 0.001}
    """

    by: str
    tried: Mapping[str, Sequence[Setting]]
    seeds: int = 3
    lowest: bool = False

    def __post_init__(self) -> None:
        counts = {arm: len(settings) for arm, settings in self.tried.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values() or self.seeds < 1:
            raise BadSetting(f"every arm is tuned with the same number of settings, at least one; got {counts}")

    def first(self, arm: str) -> dict[str, Any]:
        """The setting of an arm before anything is tuned."""
        return dict(self.tried[arm][0]) if arm in self.tried else {}

    def chosen(self, arm: str, scores: Sequence[Sequence[float]]) -> dict[str, Any]:
        """The log of an arm.

        Args:
            scores: the measure of every setting under every seed; a setting with a missing one is not chosen.
        """
        means = [float(np.mean(row)) for row in scores]
        signed = [(-mean if self.lowest else mean) if math.isfinite(mean) else -math.inf for mean in means]
        best = max(range(len(signed)), key=lambda i: signed[i])
        return {
            "chosen": dict(self.tried[arm][best]),
            "rule": f"{'lowest' if self.lowest else 'highest'} mean of {self.by!r}",
            "seeds": list(development_seeds(self.seeds)),
            "tried": [
                {"setting": dict(setting), "mean": mean, "per_seed": list(row)}
                for setting, mean, row in zip(self.tried[arm], means, scores, strict=True)
            ],
        }
