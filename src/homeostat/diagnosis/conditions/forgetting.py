"""What was known of old tasks, lost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from homeostat.core.component import Cite
from homeostat.diagnosis.condition import Condition, Sign, graded, limit
from homeostat.diagnosis.facts import Facts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.trends import median


@dataclass(frozen=True, kw_only=True)
class StabilityGap(Condition):
    """An old task was largely lost after the last boundary and is back: scores at the ends of tasks do not show it.

        depth = A_i(before the boundary) - min A_i(since) >= limit,   (A_i(now) - min) / depth >= recovered

    now: median of the last 3 readings. A loss that stays is forgetting, which every score shows; it is not judged here.
    Needs the vital `task-accuracy` often enough after a boundary to see the dip.

    Settings:
        info, warning: depths from which on each severity holds.
        recovered: share of the depth that has to be back.
    """

    cite = Cite("De Lange, van de Ven and Tuytelaars", 2022, "Continual evaluation for lifelong learning", "2205.13452")
    entries = ("stability-gap",)
    reads = ("task-accuracy",)
    explanation = (
        "Right after the switch the network got old tasks wrong that it knew before and knows again now. Whoever uses "
        "it while it learns meets the worst case, not the score at the end of a task."
    )
    info: float = limit("stability-gap", "info", high=1.0, unit="accuracy")
    warning: float = limit("stability-gap", "warning", high=1.0, unit="accuracy")
    recovered: float = limit("stability-gap", "recovered", high=1.0, unit="of the depth")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        if not history.boundaries:
            return {}
        switch = history.boundaries[-1][0]
        found = {}
        for task in history.layers("task-accuracy"):
            before = _sound(history.between("task-accuracy", task, -np.inf, switch))
            since = _sound(history.between("task-accuracy", task, switch, np.inf))
            if not before.size or since.size < self.persistence:
                continue
            known, lowest, now = float(before[-1]), float(since.min()), median(since[-3:])
            depth = known - lowest
            severity = graded(depth, self.limits())
            if severity is not None and now - lowest >= self.recovered * depth:
                text = (
                    f"accuracy on {task} fell from {known:.2f} to {lowest:.2f} after step {switch} and is at {now:.2f}"
                )
                found[task] = Sign(severity, text, {"before": known, "lowest": lowest, "now": now, "switch": switch})
        return found


def _sound(values: Array) -> Array:
    return values[(values >= 0) & (values <= 1)]
