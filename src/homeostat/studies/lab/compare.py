"""Compares treatments on one stream: every arm under every seed, paired, with intervals, time and memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from homeostat.core.component import Cite, build, option
from homeostat.core.errors import BadInput, BadSetting
from homeostat.core.stream import Stream
from homeostat.core.treatment import Treatment
from homeostat.streams.tasks import TaskStream
from homeostat.studies.lab.expectation import Expectation, Measure, number
from homeostat.studies.lab.harness import DEFAULT_FOLDER, MOST_JOBS, run_missing
from homeostat.studies.lab.run_cache import Cells
from homeostat.studies.lab.study import Study
from homeostat.studies.lab.training import FAST_ADAM, StudyLoop, accuracy, attached
from homeostat.studies.lab.verdict import interval

UNTREATED = "untreated"
SHOWN = {
    "online": "accuracy on every batch before it is learned from, mean over the stream",
    "late": "the same, over the last tenth",
    "final": "accuracy on all tasks at the end of the stream, mean",
    "forgetting": "accuracy on a task at its end minus at the end of the stream, mean",
    "online loss": "loss on every batch before it is learned from, mean over the stream",
    "late loss": "the same, over the last tenth",
    "ms a step": "wall time of a training step, median",
    "KiB held": "size of what the treatments remember",
}
"""Descriptions of the measures: accuracies on classification streams, losses on others."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Study, abstract=True):
    """A stream, a small network and the arms to compare. It has no claim, so it has no expectation and no verdict.

    Settings:
        stream: text as on the command line, e.g. "permuted-labels:tasks=20"; its seed is that of the run.
        treat: one treatment text per arm; "A + B" applies both in one arm.
        width, depth: of the hidden layers (ReLU).
        rate: learning rate of Adam.
    """

    name: ClassVar[str] = "compare"
    cite: ClassVar[Cite | tuple[Cite, ...]] = ()
    claim: ClassVar[str] = "none: a comparison"
    expectations: ClassVar[tuple[Expectation, ...]] = ()
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"compare": {}}

    stream: str = option("permuted-labels:tasks=20")
    treat: tuple[str, ...] = option(())
    width: int = option(100)
    depth: int = option(2)
    rate: float = option(1e-3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1 or self.depth < 1 or not self.rate > 0:
            raise BadSetting("width and depth must be at least 1, and the rate above 0")
        if len(set(self.treat)) < len(self.treat) or UNTREATED in self.treat:
            raise BadSetting("every arm is given once; the untreated one is always there")
        self.problem(0)
        for arm in self.treat:
            self.treatments(arm)

    @property
    def arms(self) -> Mapping[str, str]:  # type: ignore[override]
        """Name -> description of the arm."""
        return {UNTREATED: "nothing done", **{arm: arm for arm in self.treat}}

    def settings(self) -> dict[str, Any]:
        """The settings without the arms, so that finished runs of an arm are found in comparisons with other arms."""
        return {name: value for name, value in super().settings().items() if name != "treat"}

    def problem(self, seed: int) -> Stream:
        """The stream of one seed.

        Raises:
            UnknownName, BadSetting: the text is invalid.
        """
        return changed(build("stream", self.stream), seed=seed)

    def treatments(self, arm: str) -> list[Treatment]:
        """The treatments of an arm.

        Raises:
            UnknownName, BadSetting: the text is invalid.
        """
        return [] if arm == UNTREATED else [build("treatment", text.strip()) for text in arm.split("+")]

    def run(self, arm: str, seed: int, budget: str) -> dict[str, Measure]:
        stream, treatments = self.problem(seed), self.treatments(arm)
        inputs, targets = stream.batch(0)
        classes = not targets.is_floating_point()
        outputs = _classes(stream) if classes else targets[0].numel()
        model = _network(inputs[0].numel(), [self.width] * self.depth, outputs)
        optimizer = FAST_ADAM(model.parameters(), lr=self.rate)
        with attached(model, optimizer, treatments, seed) as loop:
            seen = _Seen(stream, loop, classes)
            seen.go()
            held = _held(loop.run.state_dict()) if loop.run is not None else 0
        return {**seen.measures(), "KiB held": held / 1024}


def _network(inputs: int, widths: Sequence[int], outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, width in zip((inputs, *widths), widths, strict=False):
        layers += [nn.Linear(before, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


def _classes(stream: Stream) -> int:
    if isinstance(stream, TaskStream):
        return stream.source.classes
    raise BadInput(f"{stream.name} does not say how many classes it has")


def _held(state: Any) -> int:
    """Bytes of the state tensors of treatments."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(_held(value) for key, value in state.items() if key not in ("history", "diagnosis", "loop"))
    return 0


class _Seen:
    """One pass through a stream, with its measurements."""

    def __init__(self, stream: Stream, loop: StudyLoop, classes: bool) -> None:
        self.stream, self.loop, self.classes = stream, loop, classes
        self.online: list[float] = []
        self.seconds: list[float] = []
        self.at_end: list[float] = []
        self.final: list[float] = []
        if not classes:
            self.loop.criterion = nn.functional.mse_loss

    def go(self) -> None:
        starts = set(self.stream.boundaries)
        for step in range(len(self.stream)):
            if step in starts:
                self._task_ends()
                self.loop.boundary(self.stream.task(step))
            self._one(*self.stream.batch(step))
        self._task_ends()
        self.final = self._accuracies(len(self.at_end))

    def _one(self, inputs: Tensor, targets: Tensor) -> None:
        began = time.perf_counter()
        outputs, loss = self.loop.step(inputs, targets)
        self.seconds.append(time.perf_counter() - began)
        right = (outputs.argmax(-1) == targets).double().mean() if self.classes else loss
        self.online.append(right.item())

    def _task_ends(self) -> None:
        self.at_end += self._accuracies(len(self.at_end) + 1)[-1:]

    def _accuracies(self, tasks: int) -> list[float]:
        if not (self.classes and isinstance(self.stream, TaskStream)):
            return []
        with self.loop.evaluation():
            return [accuracy(self.loop.model, *self.stream.whole(task)) for task in range(tasks)]

    def measures(self) -> dict[str, Measure]:
        tail = self.online[-max(len(self.online) // 10, 1) :]
        kind = "" if self.classes else " loss"
        found: dict[str, Measure] = {f"online{kind}": _mean(self.online), f"late{kind}": _mean(tail)}
        if self.final:
            lost = [end - now for end, now in zip(self.at_end, self.final, strict=True)]
            found |= {"final": _mean(self.final), "forgetting": _mean(lost)}
        return {**found, "ms a step": 1e3 * sorted(self.seconds)[len(self.seconds) // 2]}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@dataclass(frozen=True)
class Outcome:
    """A comparison's result.

    Args:
        arms: arm -> measure -> {"mean", "interval"} over the seeds, and for treated arms "difference" from the
            untreated one under the same seeds with its "difference_interval" (95% Student t).
    """

    stream: str
    seeds: tuple[int, ...]
    arms: dict[str, dict[str, dict[str, Any]]]
    settings: dict[str, Any]
    command: str

    def to_json(self) -> dict[str, Any]:
        """The documented JSON form."""
        return asdict(self)


def compare(
    comparison: Comparison,
    seeds: int = 5,
    jobs: int = MOST_JOBS,
    command: str = "",
    progress: bool = True,
    folder: Path = DEFAULT_FOLDER,
) -> Outcome:
    """Run the unfinished runs of a comparison; finished runs are cached.

    Raises:
        BadSetting: seeds or jobs out of range.
        KeyboardInterrupt: the user stopped it; finished runs stay cached.
    """
    if jobs not in range(1, MOST_JOBS + 1):
        raise BadSetting(f"jobs must be 1 to {MOST_JOBS}, got {jobs!r}")
    chosen = comparison.seeds("compare", seeds)
    cells = Cells(comparison, "compare", Path(folder))
    wanted = [(arm, seed) for seed in chosen for arm in comparison.arms]
    run_missing(comparison, "compare", wanted, cells, jobs, progress)
    rows = {arm: [cells.finished((arm, seed)).measures for seed in chosen] for arm in comparison.arms}
    arms = {arm: _summary(found, rows[UNTREATED] if arm != UNTREATED else None) for arm, found in rows.items()}
    return Outcome(comparison.stream, chosen, arms, comparison.settings(), command)


def _summary(rows: list[dict[str, Measure]], control: list[dict[str, Measure]] | None) -> dict[str, dict[str, Any]]:
    summary: dict[str, dict[str, Any]] = {}
    for name in rows[0]:
        values = [number(row, name) for row in rows]
        summary[name] = {"mean": _mean(values), "interval": _finite(interval(values))}
        if control is not None:
            gaps = [value - number(row, name) for value, row in zip(values, control, strict=True)]
            summary[name] |= {"difference": _mean(gaps), "difference_interval": _finite(interval(gaps))}
    return summary


def _finite(bounds: tuple[float, float]) -> list[float | None]:
    return [bound if abs(bound) < float("inf") else None for bound in bounds]
