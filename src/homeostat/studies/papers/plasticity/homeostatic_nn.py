"""Homeostatic learners under concept shift: the items that a learner accepts change its learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from homeostat.controllers import Homeostatic
from homeostat.controllers.homeostatic import taken_in, valence
from homeostat.core.component import Cite
from homeostat.core.random import Draw
from homeostat.fleet import Fleet
from homeostat.streams import LabelSwaps
from homeostat.studies.lab.expectation import Expectation, Measure, Measures, Precondition, number, primary
from homeostat.studies.lab.many_seeds import FleetStudy, right, stacked

START = 0.3
"""Initial learning rate of every arm but Adam's."""
REMEMBERED = 20
"""Items that a learner remembers; like a bite of a tenth of the initial rate, from the authors' code."""
BATCH = 10
SHIFTS: dict[str, dict[str, int]] = {
    "never": {"period": 0},
    "every 2000": {"period": 2000 // BATCH},
    "every 100": {"period": 100 // BATCH},
    "every 50": {"period": 50 // BATCH},
    "changing": {"period": 2000 // BATCH, "other": 50 // BATCH, "season": 2000 // BATCH},
}


@dataclass(frozen=True)
class Learner:
    """How one arm learns.

    Args:
        says: description of the difference.
        by: what changes the rate: nothing ("constant"), a coin, or whether the item's step is found to be better.
        judge: on which items a step is found to be better: the 20 "before" its batch or "after" it; "" for neither.
        start: initial learning rate; a bite is a tenth of it.
    """

    says: str
    by: str = "constant"
    judge: str = ""
    start: float = START

    def judges(self, batches: Sequence[tuple[Tensor, Tensor]], step: int) -> Sequence[tuple[Tensor, Tensor]]:
        """The batches on which the step at this batch is judged."""
        count = REMEMBERED // BATCH
        return batches[step + 1 : step + 1 + count] if self.judge == "after" else batches[max(0, step - count) : step]


SMALL = START / 30
_ARMS = {
    "constant": Learner(f"SGD at {START:g}, the best constant"),
    "random": Learner(
        "the rate moves by the effect of an item that a coin takes in, as in the authors' control", "coin"
    ),
    "homeostatic": Learner("the rate moves by the effect of an item that the learner takes in", "need", "before"),
    "homeostatic, next items": Learner(
        "the same, but a step is judged on the 20 items after it, which the learner cannot know", "need", "after"
    ),
    "constant, small": Learner(f"SGD at {SMALL:g}, a thirtieth", start=SMALL),
    "homeostatic, small": Learner(f"homeostatic, from {SMALL:g}", "need", "before", SMALL),
}


def _gap(arm: str, other: str, shift: str):
    """Online accuracy of one arm minus that of another under a shift."""
    return lambda arms: number(arms[arm], shift) - number(arms[other], shift)


def _grows(arms: Mapping[str, Measures]) -> float:
    """Difference to the constant rate at the fastest shift minus that at the slowest."""
    fast, slow = (_gap("homeostatic", "constant", shift)(arms) for shift in ("every 50", "every 2000"))
    return fast - slow


@dataclass(frozen=True, kw_only=True)
class HomeostaticStudy(FleetStudy):
    """Online digits, 6,000 items in batches of 10. Two classes swap their labels every given number of items.

    64-64-32-10 ELU network, SGD. Accuracy is online: on each batch before training on it, mean over the stream.
    "changing": a swap every 2000 and every 50 items alternately, 2000 items each. After each step a homeostatic learner
    repeats that step on a copy, with the rate changed in the direction that the batch's first item predicts. If
    accuracy on the 20 items before this batch is then higher, it accepts the item, and the item's true effect changes
    the rate (`taken_in`). The authors do the same just before the step, on MNIST, for 50 epochs, from a rate of 0.001.
    """

    name: ClassVar[str] = "homeostatic-nn"
    cite: ClassVar[Cite | tuple[Cite, ...]] = Cite.of("homeostatic-nn")
    claim: ClassVar[str] = (
        "Under concept shift, a learner that regulates its learning rate by the items it accepts is more accurate than "
        "one with a constant or a randomly regulated rate, most of all at the fastest shifts, and also if the rate of "
        "shift changes."
    )
    series: ClassVar[str] = "accuracy by shift"
    changed: ClassVar[str] = (
        "One primary expectation decides, on new seeds. The likely cause of the first result is tested: an arm judges "
        "a step on the items after it, and two arms begin with a small rate, as the authors do. Six tenths of the "
        "items, and the seeds of a block are trained as a fleet"
    )
    tuning: ClassVar[str] = (
        f"on seeds 1000 and 1001: the initial rate of the first arms ({START:g}), the best constant of 0.03, 0.1, "
        "0.3, 0.5 and 1 on average over all shifts; one homeostatic run was looked at on seed 1000"
    )
    remarks: ClassVar[str] = (
        "The rate follows the shift (on average 0.06 without shift, 0.11 with a swap every 50 items), but it falls far "
        "below the best constant rate, 0.3, and accuracy with it: 0.28 against 0.53. A part of the cause is that an "
        "item is accepted if more of the items *before* the step would be classified correctly, which favours small "
        "steps, because they forget less: judged on the items after the step, the mean rate is 0.18 and accuracy 10 "
        "points higher, but with an interval that includes 0, and still 15 points below the constant rate. The rest: "
        "an item of a batch of ten seldom changes a prediction for 20 items, so most items are not accepted, and the "
        "effects of accepted ones nearly cancel. From a thirtieth of the rate the homeostatic learner does as the "
        "constant rate does (0.12): in 600 steps its rate does not leave the start. The authors train for 50 epochs of "
        "MNIST."
    )
    arms: ClassVar[Mapping[str, str]] = {name: arm.says for name, arm in _ARMS.items()}
    expectations: ClassVar[tuple[Expectation, ...]] = primary(
        (
            Expectation(
                "a swap every 50 items: better than the constant rate", _gap("homeostatic", "constant", "every 50")
            ),
            Expectation("every 100 items: better than the constant rate", _gap("homeostatic", "constant", "every 100")),
            Expectation("the gap is larger with a swap every 50 items than every 2000", _grows),
            Expectation(
                "changing rate of shift: better than the constant rate", _gap("homeostatic", "constant", "changing")
            ),
            Expectation("every 50 items: better than the random rate", _gap("homeostatic", "random", "every 50")),
            Expectation(
                "no shift: at most 1 point worse than the constant rate",
                _gap("homeostatic", "constant", "never"),
                -0.01,
            ),
            Expectation(
                "the cause: judged on the next items instead, it is better by 3 points with a swap every 50 items",
                _gap("homeostatic, next items", "homeostatic", "every 50"),
                0.03,
            ),
            Expectation(
                "from a rate thirty times smaller: better than that constant rate with a swap every 50 items",
                _gap("homeostatic, small", "constant, small", "every 50"),
            ),
        ),
        "a swap every 50 items: better",
        margin=0.01,
    )
    because: ClassVar[str] = (
        "The abstract's claim is about more accuracy than a constant rate under concept shift, most of all at the "
        "fastest shift."
    )
    preconditions: ClassVar[tuple[Precondition, ...]] = (
        Precondition(
            "constant rate: a swap every 50 items costs more than 3 points against no shift",
            lambda arms: number(arms["constant"], "never") - number(arms["constant"], "every 50"),
            0.03,
            ("constant",),
        ),
    )
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"smoke": {"steps": 25}, "paper": {"steps": 600}}

    def run_many(self, arm: str, seeds: Sequence[int], budget: str) -> list[dict[str, Measure]]:
        steps, found = self.sizes(budget)["steps"], [dict[str, Measure]() for _ in seeds]
        for shift, settings in SHIFTS.items():
            streams = [LabelSwaps(data=self.data, steps=steps, batch_size=BATCH, seed=s, **settings) for s in seeds]
            accuracy, rates = _walk(_ARMS[arm], streams, seeds)
            for row, *values in zip(found, accuracy.tolist(), rates.tolist(), strict=True):
                row |= dict(zip((shift, f"mean rate, {shift}"), values, strict=True))
        return [
            {**row, "accuracy by shift": [round(float(row[shift]), 4) for shift in SHIFTS]}  # type: ignore[arg-type]
            for row in found
        ]


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ELU(), nn.Linear(64, 32), nn.ELU(), nn.Linear(32, 10))


def outputs_of(weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Outputs [R, N, 10] of the networks with these weights [R, ...] on [R, N, 64]."""
    x = inputs
    for layer in ("0", "2", "4"):
        x = torch.baddbmm(weights[f"{layer}.bias"].unsqueeze(1), x, weights[f"{layer}.weight"].mT)
        x = nn.functional.elu(x) if layer != "4" else x
    return x


def _walk(arm: Learner, streams: Sequence[LabelSwaps], seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Online accuracy over a stream, and the mean learning rate, of every seed [R]."""
    fleet = Fleet(_network, optimizer=partial(torch.optim.SGD, lr=arm.start), seeds=seeds, vitals=())
    controller = Homeostatic(bite=arm.start / 10, high=1e3)
    rate = torch.full((len(seeds),), arm.start, dtype=torch.float64)
    state, draw = controller.init(rate), Draw(seeds, ("study", "homeostatic-nn"))
    batches = [stacked(pairs) for pairs in zip(*([s.batch(i) for i in range(len(s))] for s in streams), strict=True)]
    correct, rates = torch.zeros(len(seeds), dtype=torch.float64), torch.zeros(len(seeds), dtype=torch.float64)
    for step, (inputs, targets) in enumerate(batches):
        before = {name: value.clone() for name, value in fleet.parameters().items()} if arm.judge else {}
        with torch.no_grad():
            said = fleet(inputs)
        correct += right(said, targets)
        rates += rate
        fleet.step(inputs, targets)
        judges = arm.judges(batches, step)
        if arm.by == "constant" or not judges:
            continue
        effect = valence(targets[:, 0], 10)
        if arm.by == "coin":
            effect = effect * (draw.at(step).uniform("coin", rate) > 0.5)
        else:
            more = (rate + controller.bite * valence(said[:, 0].argmax(-1), 10)).clamp(min=1e-8) - rate
            now = fleet.parameters()
            ratio = (more / rate).float()
            imagined = {n: p - ratio.view(-1, *(1,) * (p.ndim - 1)) * (before[n] - p) for n, p in now.items()}
            x, y = (torch.cat(parts, 1) for parts in zip(*judges, strict=True))
            effect = taken_in(outputs_of(now, x), outputs_of(imagined, x), y, effect)
        rate, state = controller.step(effect, state)
        fleet.turn("lr", rate)
    return correct / len(batches), rates / len(batches)
