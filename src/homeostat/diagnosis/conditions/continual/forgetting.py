"""Earlier data that are forgotten, permanently or for a while."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from homeostat.core.component import Cite
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.condition import Condition, Sign, graded
from homeostat.diagnosis.example_histories import READINGS, TASK, ExampleHistory, Point
from homeostat.diagnosis.facts import EarlierFacts, Facts
from homeostat.diagnosis.history import Array, History
from homeostat.diagnosis.prescriptions import Remedy
from homeostat.diagnosis.thresholds import limit
from homeostat.diagnosis.trends import median


def _dipping(t: float, ill: float) -> list[Point]:
    since = round(t * (READINGS - 1)) % (READINGS // 10)  # readings since the last boundary
    return [("task-accuracy", TASK, 0.95 - 0.8 * ill * math.exp(-since / 2))]


@dataclass(frozen=True, kw_only=True)
class Forgetting(Condition):
    """The data changed, the network fits the present data, and it lost what it knew of the earlier data.

        lost = 1 - now / then >= limit,   then >= known,   present >= known

    Knowledge is 0 for guessing and 1 if everything is right (see `EarlierFacts`). `then` is that of a few batches when
    they were trained on, and `now` that of the same items in evaluation mode, the larger of the last two evaluations.
    `present` is that of a present batch. An earlier batch counts only if its labels or inputs differ from the present
    ones. So targets that change for the same inputs are not judged, nor are classes that come back
    (`data-not-shuffled`).

    Settings:
        info, warning: smallest lost share of each severity.
        known: knowledge that counts as having learned.
        items: number of earlier items that must be evaluated.
        stream: number of changes of the inputs from which on it is info, because a network that tracks a stream need
            not keep all of it.
    """

    cite = Cite(
        "McCloskey and Cohen",
        1989,
        "Catastrophic interference in connectionist networks",
        "",
        "PLM 24",
    )
    explains = ("dormant-units", "saturated-units", "rank-collapse", "vanishing-gradients", "oscillating-loss")
    explanation = (
        "The network is trained on data that changed, and training on the new overwrote what it knew of the old. "
        "The loss does not show it, because it is computed on the present data."
    )
    remedies = (
        Remedy("rehearse: mix items of earlier data into every batch", ("power-law-rehearsal",)),
        Remedy("rehearse a sample of all earlier items, if changes of the data are not marked", ("experience-replay",)),
        Remedy("train on all data together, shuffled, if they can be kept"),
        Remedy(
            "hold weights that mattered earlier (`elastic-weight-consolidation` or `synaptic-intelligence`, with "
            "`run.boundary()` where the data change), or use smaller steps on new data"
        ),
    )
    faults: ClassVar[Mapping[str, Facts]] = {
        "classes one pair after the other": Facts(
            steps=1000,
            earlier=EarlierFacts(
                evaluations=4, batches=6, items=192, first=120, last=780, differ="classes", then=0.95, now=0.02,
                before=0.03, present=0.97, changes=4,
            ),
        ),
    }  # fmt: skip
    persistence: int = 1
    info: float = limit(0.2, "policy: a fifth of what was known", ease=0.8, high=1.0, unit="of the knowledge")
    warning: float = limit(
        0.4,
        "policy: rehearsal keeps nine tenths, and a new domain may cost some",
        ease=0.8,
        high=1.0,
        unit="of the knowledge",
    )
    known: float = limit(0.5, "policy: halfway from guessing to everything right", ease=0.8, high=1.0)
    items: float = limit(16, "policy: a few items are known or lost by luck", unit="items")
    stream: float = limit(12, "policy: benchmarks of forgetting have 5 to 10 tasks", unit="changes")

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        seen = facts.earlier
        if facts.several_objectives or facts.loss.labels.order == "recurring":
            return {}
        if seen.evaluations < 2 or seen.items < self.items or not min(seen.then, seen.present) >= self.known:
            return {}
        now = max(seen.now, seen.before)
        severity = graded(1 - now / seen.then, self.limits())
        if severity is None:
            return {}
        if seen.differ == "inputs" and seen.changes >= self.stream:
            severity = "info"
        what = "whose classes are gone from" if seen.differ == "classes" else "unlike"
        text = (
            f"of {seen.items} items from steps {seen.first} to {seen.last}, {what} the present batches, the network "
            f"knew {seen.then:.0%} (0: guessing) and knows {now:.0%}; of the present ones it knows {seen.present:.0%}"
        )
        numbers = {"then": seen.then, "now": now, "present": seen.present, "items": seen.items, "differ": seen.differ}
        return {NETWORK: Sign(severity, text, numbers)}


@dataclass(frozen=True, kw_only=True)
class StabilityGap(Condition):
    """An old task was largely forgotten after the last boundary and has recovered. Scores at the ends of tasks do not
    show this.

        depth = A_i(before the boundary) - min A_i(since) >= limit,   (A_i(now) - min) / depth >= recovered

    `now` is the median of the last 3 readings. A loss that does not recover is forgetting, which the scores show; it is
    not judged here. The vital `task-accuracy` must be measured often enough after a boundary to show the drop.

    Settings:
        info, warning: smallest depth of each severity.
        recovered: smallest share of the depth that has recovered.
    """

    cite = Cite.of("stability-gap")
    reads = ("task-accuracy",)
    explanation = (
        "Right after the switch the network failed on old tasks that it knew before and knows again now. If it is "
        "used while it learns, the worst accuracy matters, not the score at the end of a task."
    )
    remedies = (
        Remedy("use and judge averaged weights while a task is learned", ("temporal-ensemble",), "ocl-ema"),
        Remedy("take smaller steps right after a switch: warm the learning rate up again"),
        Remedy("begin to rehearse old items before the switch, or rehearse more of them at first"),
    )
    examples: ClassVar[Mapping[str, ExampleHistory]] = {"a gap after every boundary": _dipping}
    info: float = limit(0.1, "policy: a tenth of all items, lost and found again", ease=0.7, high=1.0, unit="accuracy")
    warning: float = limit(
        0.3, "policy: nearly a third of all items, lost and found again", ease=0.8, high=1.0, unit="accuracy"
    )
    recovered: float = limit(
        0.5,
        "policy: most of it is back, so that what was lost is a gap and not forgetting",
        ease=0.7,
        high=1.0,
        unit="of the depth",
    )

    def signs(self, history: History, facts: Facts) -> dict[str, Sign]:
        if not history.boundaries:
            return {}
        switch = history.boundaries[-1][0]
        found: dict[str, Sign] = {}
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
