"""A study of treatments on a stream of tasks: only the arms, the stream and the expectations are its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from homeostat.streams.permuted import PermutedLabels
from homeostat.streams.tasks import TaskStream
from homeostat.studies.lab.expectation import Measure
from homeostat.studies.lab.study import Study
from homeostat.studies.lab.training import ArmSetup, condition, train


@dataclass(frozen=True, kw_only=True)
class StreamStudy(Study, abstract=True):
    """One pass through a stream of tasks of the digits with a ReLU network; each arm is an `ArmSetup`.

    Class attributes:
        setups: arm -> its network, optimizer and treatments; `arms` follows from it.
        stream: class of the stream.

    A tuned setting of an arm may have the knob "rate", the learning rate; other knobs are those of `treated`.

    Measures: "early" and "late", the mean accuracy at a task's end over the first and last `edge` tasks; the same of
    "online", the accuracy on every batch before it is learned from; dormant units and rank at the end; the series
    "end" and "online".
    """

    setups: ClassVar[Mapping[str, ArmSetup]]
    stream: ClassVar[type[TaskStream]] = PermutedLabels
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"tasks": 2, "items": 96, "batch_size": 32, "widths": (16, 16), "rate": 3e-3, "edge": 1},
        "paper": {"tasks": 50, "items": 0, "batch_size": 32, "widths": (100, 100), "rate": 3e-3, "edge": 10},
    }

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "setups" in cls.__dict__:
            cls.arms = {arm: setup.says for arm, setup in cls.setups.items()}

    def setup(self, arm: str) -> ArmSetup:
        """The arm with its tuned setting; override it where a knob besides the learning rate is tuned."""
        return self.setups[arm]

    def run(self, arm: str, seed: int, budget: str) -> dict[str, Measure]:
        sizes, setup = self.sizes(budget), self.setup(arm)
        stream = self.stream(data=self.data, seed=seed, **{k: sizes[k] for k in ("tasks", "items", "batch_size")})
        model = setup.network(stream.source.inputs.shape[1], sizes["widths"], stream.source.classes)
        optimizer = setup.optimizer(model.parameters(), lr=self.setting(arm).get("rate", sizes["rate"]))
        course, edge = train(model, optimizer, stream, setup.treatments, seed), sizes["edge"]
        return {
            "early": course.early("end", edge),
            "late": course.late("end", edge),
            "online, early": course.early("online", edge),
            "online, late": course.late("online", edge),
            **condition(model, stream.whole(stream.count - 1)[0]),
            "end": [round(value, 4) for value in course.end],
            "online": [round(value, 4) for value in course.online],
        }
