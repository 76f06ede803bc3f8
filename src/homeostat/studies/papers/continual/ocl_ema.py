"""Temporal ensembles: does evaluating an average of the weights make online learners better and more stable?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from homeostat.core.component import Cite
from homeostat.streams.data import resolve
from homeostat.studies.lab.expectation import Expectation, Measure, Precondition, difference, number, primary
from homeostat.studies.lab.many_seeds import FleetStudy
from homeostat.studies.lab.online import OnlineTasks, Rehearsal, learn_online
from homeostat.studies.lab.training import ArmSetup
from homeostat.studies.lab.tuning import Tuning
from homeostat.treatments import TemporalEnsemble

_LEARNERS = {
    "er": ("experience replay", Rehearsal()),
    "er-ace": ("ER-ACE: new items are compared with the classes of their batch only", Rehearsal(asymmetric=True)),
}
_DECAYS = (0.9, 0.97, 0.99)
_AVERAGED = {name: f"{name}, average" for name in _LEARNERS}
_ARMS = {name: says for name, (says, _) in _LEARNERS.items()} | {
    _AVERAGED[name]: f"{says}; evaluated with the weights averaged" for name, (says, _) in _LEARNERS.items()
}


def _expected(learner: str) -> tuple[Expectation, ...]:
    averaged = _AVERAGED[learner]
    return (
        Expectation(f"{learner}: the average's worst-case accuracy is higher", difference(averaged, learner, "worst")),
        Expectation(f"{learner}: it dips less after a switch", difference(learner, averaged, "dip")),
        Expectation(f"{learner}: its accuracy over time is higher", difference(averaged, learner, "anytime")),
        Expectation(
            f"{learner}: its final accuracy is at most one point lower", difference(averaged, learner, "final"), -0.01
        ),
    )


def _unstable(learner: str) -> Precondition:
    return Precondition(
        f"{learner}: worst-case accuracy is more than 3 points below the final accuracy",
        lambda arms: number(arms[learner], "final") - number(arms[learner], "worst"),
        0.03,
        (learner,),
    )


@dataclass(frozen=True, kw_only=True)
class TemporalEnsembleStudy(FleetStudy):
    """Online split digits: five tasks of two classes, one pass over 1,200 items of each (images and their shifts by a
    pixel) in batches of 10, with 10 items from a reservoir of 200 that includes the current task; 64-100-10 ReLU
    network, plain SGD. The seeds of a block are trained as a fleet.

    Accuracies are on 70 held-out digits of each task, every five steps, over all classes met so far; the network does
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
        "Worst-case accuracy rises from 0.62 to 0.78 with ER and from 0.73 to 0.86 with ER-ACE, and the dip after a "
        "switch falls to a half and to a fifth. Final accuracy does not suffer. The decay matters: both averages chose "
        "0.9, the shortest that was tried. With the default of 0.99, on other seeds, the average lagged behind "
        "(accuracy over time 1 and 4 points lower), and for ER-ACE the worst-case accuracy was not clearly better "
        "(0.011, -0.007 to 0.030, with 100 seeds)."
    )
    first_seed: ClassVar[int] = 200
    tuning: ClassVar[str] = (
        "by the harness: the learning rate of both learners, and, at this rate, the decay of both averages. Memory and "
        "steps were fixed beforehand"
    )
    changed: ClassVar[str] = (
        "First: ER-ACE in place of a masked learner that was not the paper's, and a memory that includes the current "
        "task. On seeds 100 to 199 the claim was clear for ER and undecided for ER-ACE: the default decay of 0.99 "
        "averages over 100 steps, and a task has 120. The paper's tasks are much longer. So the decay is tuned now, on "
        "development seeds, with as many settings as the learning rate, and other seeds are judged"
    )
    tune: ClassVar[Tuning] = Tuning(
        "anytime",
        {name: ({"rate": 0.3}, {"rate": 0.1}, {"rate": 0.03}) for name in _LEARNERS}
        | {arm: tuple({"decay": decay} for decay in _DECAYS) for arm in _AVERAGED.values()},
        seeds=2,
    )
    arms: ClassVar[Mapping[str, str]] = _ARMS
    expectations: ClassVar[tuple[Expectation, ...]] = primary(
        tuple(e for name in _LEARNERS for e in _expected(name)),
        "er: the average's worst-case accuracy",
        "er-ace: the average's worst-case accuracy",
        margin=0.01,
    )
    because: ClassVar[str] = (
        "The worst-case accuracy falls with the accuracy and with the gap after a switch, so it measures both parts of "
        "the claim. The claim is about rehearsal methods in general, so it has to hold for both learners."
    )
    preconditions: ClassVar[tuple[Precondition, ...]] = tuple(_unstable(learner) for learner in _LEARNERS)
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"steps": 12, "batch_size": 10, "judged": 20, "widths": (20,), "every": 5, "window": 50},
        "paper": {"steps": 120, "batch_size": 10, "judged": 70, "widths": (100,), "every": 5, "window": 50},
    }

    def run_many(self, arm: str, seeds: Sequence[int], budget: str) -> list[dict[str, Measure]]:
        sizes, learner = self.sizes(budget), arm.split(", ")[0]
        tasks = OnlineTasks(resolve(self.data), seeds, sizes)
        averaged = (TemporalEnsemble(decay=self.setting(arm)["decay"]),) if arm != learner else ()
        setup, rate = ArmSetup(_ARMS[arm], averaged), self.setting(learner)["rate"]
        diaries, _ = learn_online(setup, _LEARNERS[learner][1], tasks, rate)
        found: list[dict[str, Measure]] = []
        for diary in diaries:
            average = diary.average()
            found.append(
                {
                    "final": diary.final(),
                    "anytime": sum(average) / len(average),
                    "worst": diary.worst_case(),
                    "dip": diary.dip(sizes["window"]),
                    "learned": diary.learned(),
                    "average": [round(value, 4) for value in average],
                }
            )
        return found
