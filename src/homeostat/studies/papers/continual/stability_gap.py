"""The stability gap: after a switch of tasks, accuracy on old tasks falls and recovers, even with full rehearsal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, pad
from torch.optim import SGD

from homeostat.core.component import Cite
from homeostat.core.random import Draw
from homeostat.fleet import Fleet
from homeostat.streams.data import Data, resolve
from homeostat.studies.lab.expectation import Expectation, Measure, Measures, difference, number, primary
from homeostat.studies.lab.forgetting import held_out
from homeostat.studies.lab.many_seeds import FleetStudy, fleet_of, stacked
from homeostat.studies.lab.training import ArmSetup
from homeostat.vitals import TaskAccuracy
from homeostat.vitals.continual import continual

ANGLES = (20, 40, 80)
JUDGED = 150
"""Largest number of held-out items of a task."""
ALL, FEW = "all kept", "few kept"
WITHIN = 100
"""Number of steps after a switch in which the gap is measured."""
FIRST = 10
"""Steps in which the stable part may still be small."""


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
class StabilityGapStudy(FleetStudy):
    """A 64-64 ReLU network, plain SGD, batches of 64 and as many rehearsed items, all drawn at random. Old tasks are
    evaluated at every step from 10 before a switch to 100 after it. The seeds of a block are trained as a fleet.

    Domain-incremental: three tasks with all ten digits, each rotated by a further angle. Class-incremental: five tasks
    of two digits. Accuracies are on held-out digits, up to 150 of each task. The two parts of the gradient are computed
    on 128 training items of the old tasks and of the new one; as in the paper, the stable part is that of rehearsed
    items.

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
        "The gap is there with every old item rehearsed: 21 to 32 points on rotated digits and 50 on split digits, of "
        "which 92 to 96% are recovered within 100 steps; final accuracies of 0.89 to 0.95 do not show it. At the "
        "switch the stable part is 1% of the plastic part on split digits, 12% at 80 degrees, 18% at 40 and 36% at 20; "
        "within ten steps both are equal. So it is small where the gap is deep, but near zero on split digits only. "
        "The gap is deeper at 40 degrees than at 20, and not at 80 than at 40. Likely cause: dissimilarity does not "
        "increase with the angle throughout. The third task is rotated by 160 degrees, where digits resemble the "
        "originals again (relative mean squared change of a pixel: 0.30, 0.65, 1.01 and 0.56 at 20, 40, 80 and 160 "
        "degrees). Other learners of the paper (GEM, LwF, EWC, SI) and its larger data were not tried."
    )
    tuning: ClassVar[str] = (
        "on seed 1000, with everything kept, at 40 degrees and on split digits: the learning rate (0.03, 0.1, 0.3), by "
        "final accuracy, at 300 steps per task; steps per task (300, 400) on the same seed at rate 0.1, so that tasks "
        "are learned by the switch. The two judged values, 0.3 and 400, were not tried together"
    )
    changed: ClassVar[str] = (
        "The gap itself decides, on new seeds; one comparison of two angles had left the claim open. Networks of 64 "
        "units and 150 steps a task; the seeds of a block are trained as a fleet, and old tasks are evaluated around "
        "switches only"
    )
    arms: ClassVar[Mapping[str, str]] = {
        f"{tasks}, {kept}": f"{_SAYS[tasks]}; {_KEPT[kept]}"
        for tasks, kept in [*((tasks, ALL) for tasks in _TASKS), (f"{ANGLES[-1]} degrees", FEW)]
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
        "smoke": {"tasks": 2, "steps": 12, "widths": (20,), "rate": 0.1, "few": 5},
        "paper": {"tasks": 5, "steps": 150, "widths": (64, 64), "rate": 0.3, "few": 50},
    }

    def run_many(self, arm: str, seeds: Sequence[int], budget: str) -> list[dict[str, Measure]]:
        sizes, (kind, kept) = self.sizes(budget), arm.split(", ")
        problem = SeedTasks.of(resolve(self.data), seeds, _TASKS[kind], sizes["tasks"])
        plain = ArmSetup("", optimizer=SGD)
        inputs, classes = problem.inputs.shape[2], problem.classes
        fleet = fleet_of(plain, inputs, sizes["widths"], classes, sizes["rate"], seeds)
        learner = Rehearser(fleet, problem, sizes["steps"], 0 if kept == ALL else sizes["few"])
        found = learner.learn()
        gaps, curves = _gaps(found), _plotted(found)
        return [
            {
                "final": float(found.accuracy[r, :, -1].mean()),
                **{name: float(values[r]) for name, values in {**gaps, **learner.shares()}.items()},
                "around a switch": [round(value, 4) for value in curves[r].tolist()],
            }
            for r in range(len(seeds))
        ]


@dataclass(frozen=True)
class SeedTasks:
    """The tasks of R seeds.

    Args:
        inputs, labels: training items of all tasks of each seed [R, N, ...].
        members: for every task the numbers of its items [R, n]; shorter lists are repeated from their beginning.
        exams: held-out items of every task [R, n, ...].
    """

    seeds: tuple[int, ...]
    inputs: Tensor
    labels: Tensor
    members: list[Tensor]
    exams: list[tuple[Tensor, Tensor]]
    classes: int

    @classmethod
    def of(cls, data: Data, seeds: Sequence[int], make: Callable[[Data], list[Data]], count: int) -> SeedTasks:
        """The first tasks that a function makes of the data of every seed."""
        parts = [[make(part)[:count] for part in held_out(data, seed)] for seed in seeds]
        learned, judged = zip(*parts, strict=True)
        most = max(sum(map(len, tasks)) for tasks in learned)
        everything = stacked([_joined(tasks, most) for tasks in learned])
        members: list[Tensor] = []
        for k in range(len(learned[0])):
            longest = max(len(tasks[k]) for tasks in learned)
            first = [sum(len(t) for t in tasks[:k]) for tasks in learned]
            rows = [at + torch.arange(longest) % len(tasks[k]) for at, tasks in zip(first, learned, strict=True)]
            members.append(torch.stack(rows))
        exams: list[tuple[Tensor, Tensor]] = []
        for k in range(len(judged[0])):
            few = min(JUDGED, *(len(tasks[k]) for tasks in judged))
            exams.append(stacked([(tasks[k].inputs[:few], tasks[k].labels[:few]) for tasks in judged]))
        return cls(tuple(seeds), *everything, members, exams, data.classes)


def _joined(tasks: Sequence[Data], length: int) -> tuple[Tensor, Tensor]:
    """All items of some tasks; filled up to a length with the first ones again, which no task names."""
    inputs, labels = torch.cat([t.inputs for t in tasks]), torch.cat([t.labels for t in tasks])
    filled = torch.arange(length) % len(labels)
    return inputs[filled], labels[filled]


@dataclass
class Rehearser:
    """Learns the tasks in turn with rehearsal, and measures accuracies and gradients around the switches.

    Args:
        few: items of each old task that are rehearsed; 0 for all.
    """

    fleet: Fleet
    problem: SeedTasks
    steps: int
    few: int
    norms: list[list[Tensor]] = field(default_factory=list)

    def learn(self) -> continual.Timeline:
        """Train on all tasks. Returns the accuracies on all tasks [R, T, N]."""
        count, done = len(self.problem.members), 0
        when: list[int] = []
        rows: list[Tensor] = []
        for task in range(count):
            if task:
                self.norms.append([])
            for step in range(self.steps):
                if task and step < FIRST:
                    self.norms[-1].append(self.share(task))
                new = self.drawn(self.problem.members[task], ("new", task, step), 64)
                inputs, targets = self.pairs(torch.cat([new, self.old(task, step)], 1) if task else new)
                self.fleet.step(inputs, targets)
                done += 1
                if (task and step < WITHIN) or step >= self.steps - FIRST:
                    when.append(done)
                    rows.append(self.accuracies(count if done == count * self.steps else task + 1))
        ends = [*(self.steps * (k + 1.0) for k in range(count - 1)), math.inf]
        names = tuple(f"task {k}" for k in range(count))
        ended = torch.tensor(ends, dtype=torch.float64)
        return continual.Timeline(names, torch.tensor(when), torch.stack(rows, -1), ended)

    def old(self, task: int, step: int) -> Tensor:
        """64 rehearsed items, of every old task equally often on average [R, 64]."""
        kept = [each[:, : self.few] if self.few else each for each in self.problem.members[:task]]
        each = torch.stack([self.drawn(m, ("old", task, step, k), 64) for k, m in enumerate(kept)])
        which = (self.uniform(("which", task, step), 64) * task).long()
        return each.gather(0, which[None])[0]

    def share(self, task: int) -> Tensor:
        """Norm of the gradient of old tasks' items over that of the new task's items, now [R]."""
        members, norms = self.problem.members, list[list[float]]()
        for parts in (members[:task], members[task : task + 1]):
            items = torch.cat([m[:, : -(-128 // len(parts))] for m in parts], 1)[:, :128]
            x, y = self.pairs(items)
            norms.append([_norm(self.fleet.replica(r), x[r], y[r]) for r in range(len(x))])
        stable, plastic = (torch.tensor(row, dtype=torch.float64) for row in norms)
        return stable / plastic

    def shares(self) -> dict[str, Tensor]:
        """The share at the switch and its largest value soon after, mean over the switches [R]."""
        found = torch.stack([torch.stack(rows) for rows in self.norms])
        return {"share at switch": found[:, 0].mean(0), "share later": found.amax(1).mean(0)}

    def accuracies(self, known: int) -> Tensor:
        """Held-out accuracy on the first tasks, NaN for the others [R, T]."""
        exams = self.problem.exams
        found = torch.full((len(self.problem.seeds), len(exams)), math.nan, dtype=torch.float64)
        with self.fleet.evaluation():
            outputs = self.fleet(torch.cat([x for x, _ in exams[:known]], 1))
        for k, (said, (_, y)) in enumerate(
            zip(outputs.split([y.shape[1] for _, y in exams[:known]], 1), exams, strict=False)
        ):
            found[:, k] = (said.argmax(-1) == y).double().mean(1)
        return found

    def pairs(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of items [R, B]."""
        rows = torch.arange(len(items)).unsqueeze(1)
        return self.problem.inputs[rows, items], self.problem.labels[rows, items]

    def drawn(self, members: Tensor, path: tuple[object, ...], count: int) -> Tensor:
        """Items of a list of each seed [R, count], with replacement."""
        return members.gather(1, (self.uniform(path, count) * members.shape[1]).long())

    def uniform(self, path: tuple[object, ...], count: int) -> Tensor:
        """Uniform numbers [R, count] that depend on the seed and the path alone."""
        like = torch.empty(len(self.problem.seeds), count, dtype=torch.float64)
        return Draw(self.problem.seeds, ("study", "stability gap")).at(*path).uniform("items", like)


def _norm(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Norm of the gradient of the mean loss."""
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(cross_entropy(model(inputs), targets), parameters)
    return math.sqrt(sum(float(g.square().sum()) for g in gradients))


def _mean(values: Iterable[Tensor]) -> Tensor:
    """Mean over the switches [R] of what is known."""
    return torch.stack(list(values)).nanmean(0)


def _gaps(found: continual.Timeline) -> dict[str, Tensor]:
    gaps = continual.stability_gaps(found, WITHIN).values()
    lengths = [gap.length.nan_to_num(WITHIN).masked_fill(gap.depth.isnan(), math.nan) for gap in gaps]
    return {
        "depth": _mean(gap.depth.nanmean(-1) for gap in gaps),
        "length": _mean(length.nanmean(-1) for length in lengths),
        "recovered": _mean(gap.recovered.nanmean(-1) for gap in gaps),
    }


def _plotted(found: continual.Timeline) -> Tensor:
    """Accuracy on old tasks, mean over tasks and switches, from ten steps before to a hundred after a switch [R, n]."""
    curves: list[Tensor] = []
    for switch in sorted({int(end) for end in found.ends.tolist() if end < math.inf}):
        near = (found.steps > switch - FIRST) & (found.steps <= switch + WITHIN)
        curves.append(found.accuracy[:, found.ends <= switch][..., near].mean(1))
    shortest = min(curve.shape[-1] for curve in curves)
    return torch.stack([curve[:, :shortest] for curve in curves]).mean(0)
