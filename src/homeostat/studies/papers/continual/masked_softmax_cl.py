"""Masked softmax: does excluding absent classes from the loss preserve old classes, and is there a best floor?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from homeostat.core.component import Cite
from homeostat.streams.data import resolve
from homeostat.studies.lab.expectation import Expectation, Measure, Precondition, difference, number, primary
from homeostat.studies.lab.many_seeds import FleetStudy
from homeostat.studies.lab.online import OnlineTasks, Rehearsal, learn_online
from homeostat.studies.lab.training import ArmSetup
from homeostat.studies.lab.tuning import Tuning
from homeostat.treatments import MaskedSoftmax

_MEMORIES = (0, 20)
_RATES = (0.1, 0.3, 1.0)
_FLOORS = (-4.0, -1.0, 2.0)
_RATE = 0.3
_MASKS = {
    "unmasked": "no mask",
    "full mask": "irrelevant classes are left out of the loss",
    "floor": "their logits are replaced by a finite floor",
}
_ARMS = {
    **{f"{memory}, {mask}": f"memory of {memory}; {says}" for memory in _MEMORIES for mask, says in _MASKS.items()},
    "20, new items alone": "memory of 20; the full mask for new items, rehearsed ones are compared with all classes",
}


@dataclass(frozen=True, kw_only=True)
class MaskedSoftmaxStudy(FleetStudy):
    """Online split digits: five tasks of two classes, one pass over 1,200 items of each (images and their shifts by a
    pixel) in batches of 10, with 10 items from a reservoir that includes the current task; 64-100-10 ReLU network,
    plain SGD. The seeds of a block are trained as a fleet. Arms are named by the size of the memory, and by the mask.

    Accuracies are on 70 held-out digits of each task, over all classes met so far; the network does not know the task.
    Learned: accuracy on a task at its end. Forgetting: best accuracy on a task at the end of any task, minus the final
    one. ECE: expected calibration error on old tasks at the end (10 bins). Not included from the paper: convolutional
    networks, Split-CIFAR and Tiny-ImageNet, DER++ and the other learners with which it is combined.
    """

    name: ClassVar[str] = "masked-softmax-cl"
    cite: ClassVar[Cite | tuple[Cite, ...]] = MaskedSoftmax.cite
    claim: ClassVar[str] = (
        "Masking the softmax preserves what was learned of old classes. A finite mask value trades some of that "
        "stability for plasticity and is best with no or very little memory."
    )
    series: ClassVar[str] = "average"
    remarks: ClassVar[str] = (
        "Without a memory every mask helps a lot (final accuracy 0.47 and 0.51 against 0.20), and the finite floor, "
        "chosen on development seeds, is 5 points better than the full mask: it learns new classes better (0.84 at the "
        "end of their task instead of 0.71) and forgets more. With a memory of 20 the full mask forgets 10 points "
        "instead of 62, but learns new classes half as well, so it does not end with more accuracy than no mask. The "
        "cause: with these masks no item in a loss compares new classes with old ones. If rehearsed items are compared "
        "with all classes, accuracy is 10 points above the full mask's. The paper's networks, data and learners are "
        "much larger; its mask values were not checked."
    )
    changed: ClassVar[str] = (
        "The two sentences of the claim decide, on new seeds. The memory includes the current task, and the harness "
        "tunes learning rate and floor with equal effort for every arm. An arm in which rehearsed items are compared "
        "with all classes tests the cause that was suspected before"
    )
    tuning: ClassVar[str] = (
        "by the harness: the rate, and where there is a finite floor, the floor at a rate of 0.3; three settings an arm"
    )
    tune: ClassVar[Tuning] = Tuning(
        "final",
        {
            arm: tuple({"rate": _RATE, "floor": floor} for floor in _FLOORS)
            if arm.endswith("floor")
            else tuple({"rate": rate} for rate in _RATES)
            for arm in _ARMS
        },
    )
    arms: ClassVar[Mapping[str, str]] = _ARMS
    expectations: ClassVar[tuple[Expectation, ...]] = primary(
        (
            Expectation(
                "memory 20: the full mask forgets less than no mask",
                difference("20, unmasked", "20, full mask", "forgetting"),
            ),
            Expectation(
                "memory 0: a finite floor ends with more accuracy than the full mask",
                difference("0, floor", "0, full mask", "final"),
            ),
            Expectation(
                "memory 0: a finite floor ends with more accuracy than no mask",
                difference("0, floor", "0, unmasked", "final"),
            ),
            Expectation(
                "memory 20: the full mask learns the newest task at most ten points worse than no mask",
                difference("20, full mask", "20, unmasked", "learned"),
                -0.1,
            ),
            Expectation(
                "memory 20: the full mask ends with more accuracy than no mask",
                difference("20, full mask", "20, unmasked", "final"),
            ),
            Expectation(
                "memory 20: a finite floor ends with more accuracy than the full mask",
                difference("20, floor", "20, full mask", "final"),
            ),
            Expectation(
                "the cause: if rehearsed items are compared with all classes, accuracy is 3 points above the full "
                "mask's",
                difference("20, new items alone", "20, full mask", "final"),
                0.03,
            ),
        ),
        "memory 20: the full mask forgets less",
        "memory 0: a finite floor ends with more accuracy than the full",
        margin=0.01,
    )
    because: ClassVar[str] = (
        "The claim has two sentences: a mask preserves what was learned of old classes, and a finite mask value is "
        "best with no memory."
    )
    preconditions: ClassVar[tuple[Precondition, ...]] = tuple(
        Precondition(
            f"memory {memory}, unmasked: more than 10 points are forgotten",
            lambda arms, arm=f"{memory}, unmasked": number(arms[arm], "forgetting"),
            0.1,
            (f"{memory}, unmasked",),
        )
        for memory in _MEMORIES
    )
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"steps": 12, "batch_size": 10, "judged": 20, "widths": (20,), "every": 12},
        "paper": {"steps": 120, "batch_size": 10, "judged": 70, "widths": (100,), "every": 120},
    }

    def run_many(self, arm: str, seeds: Sequence[int], budget: str) -> list[dict[str, Measure]]:
        setting, (memory, mask) = self.setting(arm), arm.split(", ")
        floor = {"full mask": -1e4, "floor": setting.get("floor")}.get(mask)
        setup = ArmSetup(arm, () if floor is None else (MaskedSoftmax(floor=floor),))
        way = Rehearsal(int(memory), asymmetric=mask == "new items alone")
        tasks = OnlineTasks(resolve(self.data), seeds, self.sizes(budget))
        diaries, fleet = learn_online(setup, way, tasks, setting["rate"])
        return [
            {
                "final": diary.final(),
                "learned": diary.learned(),
                "forgetting": diary.forgetting(),
                "ece": calibration_error(fleet.replica(r), [(x[r], y[r]) for x, y in tasks.exams[:-1]]),
                "average": [round(value, 4) for value in diary.average()],
            }
            for r, diary in enumerate(diaries)
        ]


@torch.no_grad()
def calibration_error(model: nn.Module, tasks: list[tuple[Tensor, Tensor]], bins: int = 10) -> float:
    """Expected calibration error: |confidence - accuracy| in bins of equal width, weighted by their items, in [0, 1].

    Source: Guo et al. (2017), arXiv:1706.04599, equation 3.
    """
    model.eval()
    confidence, guess = model(torch.cat([x for x, _ in tasks])).softmax(-1).max(-1)
    model.train()
    right = (guess == torch.cat([y for _, y in tasks])).double()
    place = (confidence * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64).index_add(0, place, confidence.double() - right)
    return float(gap.abs().sum() / len(right))
