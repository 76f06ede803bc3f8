"""The stability gap: after a switch of tasks, accuracy on old tasks falls and recovers, even with full rehearsal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, pad
from torch.optim import SGD, Optimizer

import homeostat
from homeostat import MeasureOptions
from homeostat.core.component import Cite
from homeostat.core.random import Draw
from homeostat.core.treatment import Treatment
from homeostat.streams import ClassIncremental
from homeostat.streams.data import Data, resolve
from homeostat.studies.lab.expectation import Expectation, Measure, Measures, difference, number, primary
from homeostat.studies.lab.forgetting import held_out
from homeostat.studies.lab.study import Study
from homeostat.studies.lab.training import ArmSetup, StudyLoop
from homeostat.treatments import PowerLawRehearsal
from homeostat.vitals import TaskAccuracy
from homeostat.vitals.continual import continual

ANGLES = (20, 40, 80)
ALL, FEW = "all kept", "few kept"
PARTS = ("stable-gradient", "plastic-gradient")
WITHIN = 100
"""Number of steps after a switch in which the gap is measured."""
attach = partial(homeostat.attach, every=1, strict=True)
FIRST = 10
"""Steps in which the stable part may still be small."""


class Task(NamedTuple):
    """Training items and held-out items [N, ...], with their classes [N]."""

    learn: Data
    judge: tuple[Tensor, Tensor]

    def sample(self, seed: int, most: int = 128) -> tuple[Tensor, Tensor]:
        """A fixed subset of the training items."""
        order = torch.randperm(len(self.learn), generator=Draw(seed, ("study", "sample")).generator("order"))[:most]
        return self.learn.inputs[order], self.learn.labels[order]


def rotated(data: Data, degrees: float) -> Data:
    """Square images rotated about their centre (bilinear), padded by a quarter of their side."""
    side = math.isqrt(data.inputs.shape[1])
    images = pad(data.inputs.reshape(-1, 1, side, side), [side // 4] * 4)
    turn = math.radians(degrees)
    matrix = torch.tensor([[math.cos(turn), -math.sin(turn), 0.0], [math.sin(turn), math.cos(turn), 0.0]])
    grid = affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    turned = grid_sample(images, grid, mode="bilinear", align_corners=False)
    return Data(turned.flatten(1), data.labels, data.classes, data.name)


def only(data: Data, classes: Sequence[int]) -> Data:
    """The items of some classes."""
    chosen = torch.isin(data.labels, torch.tensor(classes))
    return Data(data.inputs[chosen], data.labels[chosen], data.classes, data.name)


def rotations(degrees: float) -> Callable[[Data], list[Data]]:
    """Three tasks, each rotated by a further angle."""
    return lambda data: [rotated(data, degrees * task) for task in range(3)]


def splits(data: Data) -> list[Data]:
    """A task for every two classes."""
    return [only(data, range(first, min(first + 2, data.classes))) for first in range(0, data.classes, 2)]


_TASKS: dict[str, Callable[[Data], list[Data]]] = {f"{a} degrees": rotations(a) for a in ANGLES} | {"split": splits}
_SAYS = {f"{a} degrees": f"the digits turned by 0, {a} and {2 * a} degrees" for a in ANGLES} | {
    "split": "two new digits a task, one output for each digit from the start"
}
_KEPT = {ALL: "all items of old tasks are rehearsed", FEW: "50 items of each old task are rehearsed"}


def _negative(arm: str, measure: str) -> Callable[[Mapping[str, Measures]], float]:
    return lambda arms: -number(arms[arm], measure)


def _of(arm: str, measure: str) -> Callable[[Mapping[str, Measures]], float]:
    return lambda arms: number(arms[arm], measure)


def _expected(arm: str) -> tuple[Expectation, ...]:
    return (
        Expectation(f"{arm}: old tasks lose more than 5 points after a switch", _of(arm, "depth"), 0.05),
        Expectation(f"{arm}: most of that is back within {WITHIN} steps", _of(arm, "recovered"), 0.5),
        Expectation(f"{arm}: at the switch the stable part is below a tenth", _negative(arm, "share at switch"), -0.1),
    )


@dataclass(frozen=True, kw_only=True)
class StabilityGapStudy(Study):
    """A 100-100 ReLU network, plain SGD, batches of 64 and as many rehearsed items. Old tasks are evaluated at every
    step.

    Domain-incremental: three tasks with all ten digits, each rotated by a further angle. Class-incremental: five tasks
    of two digits. Accuracies are on a held-out quarter of the digits. The two parts of the gradient are computed on 128
    training items of each task; as in the paper, the stable part is that of rehearsed items.

    Values are means over old tasks and then over switches. Depth: accuracy before the switch minus the lowest within
    100 steps. Length: steps until nine tenths of the depth are recovered (100 if they are not). Recovered: share of the
    depth that is recovered after 100 steps. Share at switch: norm of the stable part over that of the plastic part at
    the first step. Share later: its largest value in the first 10 steps. Plotted: accuracy on old tasks from 10 steps
    before to 100 steps after a switch.
    """

    name: ClassVar[str] = "stability-gap"
    cite: ClassVar[Cite | tuple[Cite, ...]] = TaskAccuracy.cite
    claim: ClassVar[str] = (
        "Learners with replay lose much accuracy on old tasks right after a switch and then recover, even if every old "
        "item is rehearsed. The gap grows with the dissimilarity of the tasks. It opens because the gradient of the "
        "old tasks is near zero at the switch."
    )
    series: ClassVar[str] = "around a switch"
    remarks: ClassVar[str] = (
        "The gap is there with every old item rehearsed: 25 to 39 points on rotated digits and 59 on split digits, of "
        "which 93 to 96% are recovered within 100 steps; final accuracies of 0.94 and more do not show it. At the "
        "switch the stable part is 0.7 to 4% of the plastic part (12% at 20 degrees); within ten steps both are equal. "
        "It is not decided whether the gap is deeper at 80 degrees than at 40: the depths are similar, but recovery "
        "takes 22 steps instead of 7. Likely cause: dissimilarity does not increase with the angle throughout. The "
        "third task is rotated by 160 degrees, where digits resemble the originals again (relative mean squared change "
        "of a pixel: 0.30, 0.65, 1.01 and 0.56 at 20, 40, 80 and 160 degrees). Other learners of the paper (GEM, LwF, "
        "EWC, SI) and its larger data were not tried."
    )
    tuning: ClassVar[str] = (
        "on seed 1000, with everything kept, at 40 degrees and on split digits: the learning rate (0.03, 0.1, 0.3), by "
        "final accuracy, at 300 steps per task; steps per task (300, 400) on the same seed at rate 0.1, so that tasks "
        "are learned by the switch. The two judged values, 0.3 and 400, were not tried together"
    )
    arms: ClassVar[Mapping[str, str]] = {
        f"{tasks}, {kept}": f"{_SAYS[tasks]}; {_KEPT[kept]}"
        for tasks, kept in [*((tasks, ALL) for tasks in _TASKS), (f"{ANGLES[-1]} degrees", FEW), ("split", FEW)]
    }
    expectations: ClassVar[tuple[Expectation, ...]] = primary(
        (
            *_expected(f"80 degrees, {ALL}"),
            *_expected(f"split, {ALL}"),
            Expectation(
                "all kept: the gap is deeper at 40 degrees than at 20",
                difference(f"40 degrees, {ALL}", f"20 degrees, {ALL}", "depth"),
            ),
            Expectation(
                "all kept: the gap is deeper at 80 degrees than at 40",
                difference(f"80 degrees, {ALL}", f"40 degrees, {ALL}", "depth"),
            ),
        ),
        "80 degrees, all kept: old tasks lose more than 5",
        margin=0.01,
    )
    because: ClassVar[str] = (
        "The gap itself is the finding of the abstract, also with full replay; recovery, dissimilarity and "
        "gradients describe and explain it. Rotated digits are its first domain-incremental problem."
    )
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"tasks": 2, "items": 120, "steps": 12, "widths": (20,), "rate": 0.1, "few": 5},
        "paper": {"tasks": 5, "items": 0, "steps": 400, "widths": (100, 100), "rate": 0.3, "few": 50},
    }

    def run(self, arm: str, seed: int, budget: str) -> dict[str, Measure]:
        sizes, (kind, kept) = self.sizes(budget), arm.split(", ")
        learn, judge = (_TASKS[kind](part)[: sizes["tasks"]] for part in held_out(self._items(sizes["items"]), seed))
        tasks = [Task(one, (two.inputs, two.labels)) for one, two in zip(learn, judge, strict=True)]
        memory = max(len(task.learn) for task in tasks) if kept == ALL else sizes["few"]
        rehearsal = PowerLawRehearsal(exponent=0.0, share=1.0, per_task=memory)
        model = ArmSetup("").network(tasks[0].learn.inputs.shape[1], sizes["widths"], tasks[0].learn.classes)
        optimizer = SGD(model.parameters(), lr=sizes["rate"], foreach=True)
        run, second = _trained(model, optimizer, rehearsal, tasks, sizes["steps"], seed)
        found = continual.timeline(run.vitals()["task-accuracy"], run.boundaries())
        stable, plastic = (dict(second.vitals()[vital]["network"]) for vital in PARTS)
        shares = _shares(stable, plastic, list(run.boundaries()))
        return {**_accuracies(found), **_gaps(found), **shares, **_plotted(found)}

    def _items(self, most: int) -> Data:
        full = resolve(self.data)
        return full if not most else Data(full.inputs[:most], full.labels[:most], full.classes, full.name)


def _trained(
    model: nn.Module, optimizer: Optimizer, rehearsal: Treatment, tasks: list[Task], steps: int, seed: int
) -> tuple[homeostat.AttachedRun, homeostat.AttachedRun]:
    """Train on all tasks in turn. Returns two runs of the same network: one measures accuracies on held-out items, the
    other the gradients of the items that are trained on."""
    names = [f"task {k}" for k in range(len(tasks))]
    judged = {name: task.judge for name, task in zip(names, tasks, strict=True)}
    learned = {name: task.sample(seed) for name, task in zip(names, tasks, strict=True)}
    with (
        attach(
            model,
            optimizer,
            treatments=[rehearsal],
            vitals="task-accuracy",
            measure=MeasureOptions(tasks=(judged, cross_entropy)),
        ) as run,
        attach(model, optimizer, vitals=PARTS, measure=MeasureOptions(tasks=(learned, cross_entropy))) as second,
    ):
        loop = StudyLoop(model, optimizer, run)
        for number, task in enumerate(tasks):
            if number:
                run.boundary(names[number])
                second.boundary(names[number])
            for batch in islice(whole_batches(task.learn, seed + 1000 * number), steps):
                loop.step(*batch)
    return run, second


def whole_batches(data: Data, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Full batches of 64, pass after pass; a small last batch would cause a gap itself."""
    size = min(64, len(data))
    stream = ClassIncremental(data=data, per_task=data.classes, batch_size=size, epochs=1_000_000, seed=seed)
    whole = len(data) // size
    for n in count():
        yield stream.batch(n + n // whole * (len(data) % size > 0))


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _accuracies(found: continual.Timeline) -> dict[str, Measure]:
    return {
        "final": float(found.accuracy[:, -1].mean()),
        "minimum accuracy": float(continual.minimum_accuracy(found)),
        "worst case": float(continual.worst_case_accuracy(found)),
        "windowed forgetting": float(continual.windowed_forgetting(found, 10)),
        "windowed plasticity": float(continual.windowed_plasticity(found, 10)),
    }


def _gaps(found: continual.Timeline) -> dict[str, Measure]:
    gaps = continual.stability_gaps(found, WITHIN).values()
    lengths = [gap.length.nan_to_num(WITHIN).masked_fill(gap.depth.isnan(), math.nan) for gap in gaps]
    return {
        "depth": _mean(float(gap.depth.nanmean()) for gap in gaps),
        "length": _mean(float(length.nanmean()) for length in lengths),
        "recovered": _mean(float(gap.recovered.nanmean()) for gap in gaps),
    }


def _shares(stable: Mapping[int, Any], plastic: Mapping[int, Any], switches: Sequence[int]) -> dict[str, Measure]:
    """Norm of the stable part over that of the plastic part, mean over the switches."""
    shares = [[stable[s + n] / plastic[s + n] for n in range(1, FIRST + 1)] for s in switches]
    return {
        "share at switch": _mean(share[0] for share in shares),
        "share later": _mean(max(share) for share in shares),
    }


def _plotted(found: continual.Timeline) -> dict[str, Measure]:
    """Accuracy on old tasks, mean over tasks and switches, from ten steps before to a hundred after a switch."""
    curves = []
    for switch in sorted({int(end) for end in found.ends.tolist() if end < math.inf}):
        near = (found.steps > switch - FIRST) & (found.steps <= switch + WITHIN)
        curves.append(found.accuracy[found.ends <= switch][:, near].mean(0))
    shortest = min(len(curve) for curve in curves)
    mean = torch.stack([curve[:shortest] for curve in curves]).mean(0)
    return {"around a switch": [round(value, 4) for value in mean.tolist()]}
