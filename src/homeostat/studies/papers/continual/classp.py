"""CLASSP: does it forget less than elastic weight consolidation (EWC), with no memory but one sum per weight?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import SGD

from homeostat.core.component import Cite
from homeostat.core.random import Draw
from homeostat.fleet import Fleet
from homeostat.streams import PermutedPixels
from homeostat.streams.data import resolve
from homeostat.studies.lab.elastic import FleetAnchors
from homeostat.studies.lab.expectation import Expectation, Measure, Precondition, difference, number, primary
from homeostat.studies.lab.forgetting import Diary, held_out
from homeostat.studies.lab.many_seeds import FleetStudy, accuracies_of, fleet_of, stacked, task_batches
from homeostat.studies.lab.training import FAST_ADAM, ArmSetup
from homeostat.treatments import Classp


@dataclass(frozen=True)
class ClasspArm:
    """Training of one arm.

    Args:
        setup: the network, its optimizer, and the treatment that replaces its update.
        rate: the optimizer's learning rate.
        strength: of elastic weight consolidation; 0 means none.
    """

    setup: ArmSetup
    rate: float = 0.1
    strength: float = 0.0


def classp(says: str, **settings: Any) -> ClasspArm:
    """Training in which CLASSP replaces every update; the optimizer's rate has no effect."""
    return ClasspArm(ArmSetup(says, (Classp(**settings),), optimizer=SGD))


WAYS: dict[str, ClasspArm] = {
    "sgd": ClasspArm(ArmSetup("plain SGD", optimizer=SGD), 0.05),
    "adagrad": classp(
        "AdaGrad: CLASSP of power 2 without threshold", rate=0.02, power=2.0, threshold=0.0, epsilon=1e-12
    ),
    "ewc": ClasspArm(ArmSetup("Adam with elastic weight consolidation", optimizer=FAST_ADAM), 5e-3, 100.0),
    "classp": classp(
        "CLASSP as its authors ran it: the division begins with the second task",
        scaling="later",
        rate=0.3,
        threshold=1e-6,
    ),
    "no threshold": classp("the same without the threshold", scaling="later", rate=0.2, threshold=0.0),
    "no scaling": classp("the same without the division", scaling="never", rate=0.1, threshold=1e-6),
}


def learn(way: ClasspArm, data: Any, seeds: Sequence[int], sizes: Mapping[str, Any]) -> list[dict[str, Measure]]:
    """Learn two tasks one after the other."""
    parts = list(zip((held_out(resolve(data), seed) for seed in seeds), seeds, strict=True))
    counts = {k: sizes[k] for k in ("items", "epochs", "batch_size")}
    streams = [PermutedPixels(data=known, seed=seed, tasks=2, **counts) for (known, _), seed in parts]
    exams = [PermutedPixels(data=judged, seed=seed, tasks=2) for (_, judged), seed in parts]
    tests = [stacked([exam.whole(task) for exam in exams]) for task in range(2)]
    inputs, classes = streams[0].source.inputs.shape[1], streams[0].source.classes
    fleet = fleet_of(way.setup, inputs, sizes["widths"], classes, way.rate, seeds)
    anchors, diaries, moved = FleetAnchors(fleet, way.strength), [Diary() for _ in seeds], torch.zeros(len(seeds))
    for task in range(2):
        before = _flat(fleet)
        if task:
            fleet.boundary()
        for x, y in task_batches(streams, task):
            if way.strength and task:
                fleet.learn(_losses(fleet(x), y) + anchors.penalty())
            else:
                fleet.step(x, y)
        moved = (_flat(fleet) != before).double().mean(1)
        found = torch.tensor([accuracies_of(fleet, *test) for test in tests[: task + 1]])
        for diary, accuracies in zip(diaries, found.mT.tolist(), strict=True):
            diary.note(streams[0].starts[task + 1], accuracies)
        if way.strength and not task:
            items = torch.stack([stream.whole(task)[0][:300] for stream in streams])
            anchors.drop(items, [Draw(seed, ("study", "ewc", task)).generator("labels") for seed in seeds])
    return [_measures(diary, share) for diary, share in zip(diaries, moved.tolist(), strict=True)]


def _losses(outputs: Tensor, targets: Tensor) -> Tensor:
    each = nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
    return each.view_as(targets).mean(1)


def _flat(fleet: Fleet) -> Tensor:
    return torch.cat([value.flatten(1) for value in fleet.parameters().values()], 1).clone()


def _measures(diary: Diary, moved: float) -> dict[str, Measure]:
    ends = diary.ends()
    return {
        "average": sum(ends[1]) / 2,
        "old": ends[1][0],
        "new": ends[1][1],
        "first learned": ends[0][0],
        "moved": moved,
        "average so far": [round(value, 4) for value in diary.average()],
    }


@dataclass(frozen=True, kw_only=True)
class ClasspStudy(FleetStudy):
    """Two tasks of permuted digits, ten passes each, batches of 32, no rehearsal; 64-100-10 ReLU network with one head
    for both tasks. The seeds of a block are trained as a fleet.

    All accuracies are on a held-out quarter of the digits. Average, old, new: after the second task, over both tasks
    and for each of them. Moved: share of weights that differ from their values before the second task. Elastic weight
    consolidation (Kirkpatrick et al. 2017, arXiv:1612.00796) has a Fisher matrix from 300 items of the first task, with
    labels drawn from the network. Not included from the paper: MNIST followed by Fashion-MNIST with a convolutional
    network, and sentiment analysis.
    """

    name: ClassVar[str] = "classp"
    cite: ClassVar[Cite | tuple[Cite, ...]] = Classp.cite
    claim: ClassVar[str] = (
        "In sequential learning without replay CLASSP is more accurate than elastic weight consolidation, AdaGrad, SGD "
        "and Adam, and needs both its threshold and its growing divisor."
    )
    series: ClassVar[str] = "average so far"
    tuning: ClassVar[str] = (
        "on seeds 1000 and 1001, two tasks, by average: the rates of SGD, Adam and AdaGrad (9 each); rate and strength "
        "of elastic weight consolidation (33 pairs with Adam, 27 with SGD); rate, power and threshold of CLASSP with "
        "the division from the second task on (29 settings; 18 without threshold) and throughout (34; 18 without "
        "threshold); rate and threshold without the division (18). The judged variant of CLASSP was chosen there too: "
        "division from the second task on, as in the authors' experiment, did better than division throughout (0.937 "
        "against 0.907). A first judged run was stopped before any figure was looked at, because elastic weight "
        "consolidation with SGD diverged in a later task. Only then was it also tuned with Adam, and with SGD limited "
        "to settings that learn five tasks on seeds 1000 to 1004"
    )
    remarks: ClassVar[str] = (
        "CLASSP and elastic weight consolidation are equally accurate (0.906 and 0.903), and 100 seeds exclude a "
        "difference of 2 points but not of 1. Likely cause of the tie, not tested: optimizer, rate and strength of "
        "elastic weight consolidation were tuned as carefully as CLASSP. The division causes CLASSP's gain: without "
        "it, it is as accurate as SGD (0.80), and AdaGrad is 6 points below. The threshold makes no difference to the "
        "accuracy (0.905 without); with it fewer weights move in the second task (0.78 instead of 0.88)."
    )
    changed: ClassVar[str] = (
        "The comparison with elastic weight consolidation decides, on new seeds and as many as it needs. Only the two "
        "tasks of the claim are learned, and the seeds of a block are trained as a fleet; Adam, elastic weight "
        "consolidation with SGD and the division in the first task are left out"
    )
    arms: ClassVar[Mapping[str, str]] = {name: way.setup.says for name, way in WAYS.items()}
    expectations: ClassVar[tuple[Expectation, ...]] = primary(
        tuple(
            Expectation(f"two tasks: more accuracy on average than {what}", difference("classp", arm, "average"))
            for arm, what in (
                ("adagrad", "AdaGrad"),
                ("ewc", "elastic weight consolidation"),
                ("no threshold", "without the threshold"),
                ("no scaling", "without the division"),
            )
        ),
        "two tasks: more accuracy on average than elastic",
        margin=0.01,
    )
    because: ClassVar[str] = (
        "The abstract compares CLASSP with elastic weight consolidation; the other comparisons are with ordinary "
        "optimizers and ablations."
    )
    preconditions: ClassVar[tuple[Precondition, ...]] = (
        Precondition(
            "SGD loses more than 3 points on the first task while it learns the second",
            lambda arms: number(arms["sgd"], "first learned") - number(arms["sgd"], "old"),
            0.03,
            ("sgd",),
        ),
    )
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"items": 100, "epochs": 1, "batch_size": 32, "widths": (20,)},
        "paper": {"items": 0, "epochs": 10, "batch_size": 32, "widths": (100,)},
    }

    def run_many(self, arm: str, seeds: Sequence[int], budget: str) -> list[dict[str, Measure]]:
        return learn(WAYS[arm], self.data, seeds, self.sizes(budget))
