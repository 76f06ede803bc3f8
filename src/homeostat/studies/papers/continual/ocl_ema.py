"""Temporal ensembles: does evaluating an average of the weights make online learners better and more stable?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch.optim import SGD

from homeostat.core.component import Cite
from homeostat.core.treatment import Treatment
from homeostat.streams import ClassIncremental
from homeostat.streams.data import resolve
from homeostat.studies.lab.expectation import Expectation, Measure, Precondition, difference, number, primary
from homeostat.studies.lab.forgetting import Diary, accuracies, held_out, shifted
from homeostat.studies.lab.study import Study
from homeostat.studies.lab.training import ArmSetup, attached
from homeostat.treatments import MaskedSoftmax, PowerLawRehearsal, TemporalEnsemble

_LEARNERS: dict[str, tuple[str, tuple[Treatment, ...]]] = {
    "rehearsal": (
        "as many rehearsed items as new ones, 40 kept of each task, all old tasks alike",
        (PowerLawRehearsal(exponent=0.0, share=1.0, per_task=40),),
    ),
    "masked": (
        "the same, and classes that an item has nothing to do with are masked in its loss",
        (PowerLawRehearsal(exponent=0.0, share=1.0, per_task=40), MaskedSoftmax()),
    ),
}
_DECAYS = (0.9, 0.99, 0.999)
_JUDGED = 0.99
_SETUPS: dict[str, ArmSetup] = {
    **{name: ArmSetup(says, treatments) for name, (says, treatments) in _LEARNERS.items()},
    **{
        f"{name}, average {decay:g}": ArmSetup(
            f"{says}; evaluated with the weights averaged, decay {decay:g}",
            (*treatments, TemporalEnsemble(decay=decay)),
        )
        for name, (says, treatments) in _LEARNERS.items()
        for decay in _DECAYS
    },
}


def _expected(learner: str) -> tuple[Expectation, ...]:
    averaged = f"{learner}, average {_JUDGED:g}"
    return (
        Expectation(f"{learner}: the average's worst-case accuracy is higher", difference(averaged, learner, "worst")),
        Expectation(f"{learner}: it dips less after a switch", difference(learner, averaged, "dip")),
        Expectation(
            f"{learner}: its final accuracy is at most one point lower", difference(averaged, learner, "final"), -0.01
        ),
    )


@dataclass(frozen=True, kw_only=True)
class TemporalEnsembleStudy(Study):
    """Online split digits: five tasks of two classes, one pass over 6,740 items (every image and its four shifts by a
    pixel), batches of 10; 64-100-10 ReLU network, plain SGD at 0.3.

    Accuracies are on a held-out quarter of the digits, every five steps, over all classes met so far; the network does
    not know the task. Worst: mean of the last task's accuracy and the lowest accuracy of each old task since its end.
    Dip: largest fall of the mean accuracy on old tasks in the 50 steps after a switch. Not included from the paper:
    residual networks with batch norm, Split-CIFAR100 and Split-MiniImageNet; its learners DER, MIR and RAR.
    """

    name: ClassVar[str] = "ocl-ema"
    cite: ClassVar[Cite | tuple[Cite, ...]] = TemporalEnsemble.cite
    claim: ClassVar[str] = (
        "Evaluating an exponential moving average of the weights makes online rehearsal methods more accurate and more "
        "stable, with a smaller gap after a switch of tasks, at almost no cost."
    )
    series: ClassVar[str] = "average"
    remarks: ClassVar[str] = (
        "For plain rehearsal the claim clearly holds: worst-case accuracy rises from 0.63 to 0.87 and the dip nearly "
        "disappears. It fails for the masked learner, which has hardly any dip (0.01). Likely cause: items are "
        "rehearsed only after their task has ended, so with these masks no item compares new classes with old ones; "
        "new classes are learned late (0.44 at the end of their task), and the average lags further. That learner is "
        "not the paper's ER-ACE, whose memory includes the current task and whose rehearsed items see all classes. "
        "Decays 0.99 and 0.999 give the same result: the warm-up reaches 0.99 only after 890 updates, and there are "
        "fewer."
    )
    tuning: ClassVar[str] = (
        "on seed 1000, with plain rehearsal: the learning rate (0.03, 0.1, 0.3), by accuracy over time. The judged "
        "decay is the treatment's default, fixed beforehand"
    )
    arms: ClassVar[Mapping[str, str]] = {name: setup.says for name, setup in _SETUPS.items()}
    expectations: ClassVar[tuple[Expectation, ...]] = primary(
        tuple(e for name in _LEARNERS for e in _expected(name)),
        "rehearsal: the average's worst-case accuracy",
        "masked: the average's worst-case accuracy",
        margin=0.01,
    )
    because: ClassVar[str] = (
        "The worst-case accuracy falls with the accuracy and with the gap after a switch, so it measures both parts of "
        "the claim. The claim is about rehearsal methods in general, so it has to hold for both learners."
    )
    preconditions: ClassVar[tuple[Precondition, ...]] = (
        Precondition(
            "rehearsal: accuracy on old tasks falls by more than 5 points after a switch",
            lambda arms: number(arms["rehearsal"], "dip"),
            0.05,
            ("rehearsal",),
        ),
    )
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"items": 120, "batch_size": 10, "widths": (20,), "rate": 0.3, "every": 5, "window": 50},
        "paper": {"items": 0, "batch_size": 10, "widths": (100,), "rate": 0.3, "every": 5, "window": 50},
    }

    def run(self, arm: str, seed: int, budget: str) -> dict[str, Measure]:
        sizes, setup = self.sizes(budget), _SETUPS[arm]
        learn, judge = held_out(resolve(self.data), seed)
        stream = ClassIncremental(data=shifted(learn), seed=seed, items=sizes["items"], batch_size=sizes["batch_size"])
        exam = ClassIncremental(data=judge, seed=seed)
        model = setup.network(learn.inputs.shape[1], sizes["widths"], learn.classes)
        optimizer = SGD(model.parameters(), lr=sizes["rate"], foreach=True)
        diary = Diary()
        with attached(model, optimizer, setup.treatments, seed) as loop:
            for task in range(stream.count):
                loop.boundary(task)
                tests = [exam.whole(j) for j in range(task + 1)]
                end = stream.starts[task + 1]
                for step in range(stream.starts[task], end):
                    loop.step(*stream.batch(step))
                    if (step + 1) % sizes["every"] == 0 or step + 1 == end:
                        with loop.evaluation():
                            diary.note(step + 1, accuracies(model, tests))
        average = diary.average()
        return {
            "final": diary.final(),
            "anytime": sum(average) / len(average),
            "worst": diary.worst_case(),
            "dip": diary.dip(sizes["window"]),
            "learned": diary.learned(),
            "average": [round(value, 4) for value in average],
        }
