"""GraNet: does exchanging connections help networks that are pruned gradually, or at once?"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from homeostat.core.component import Cite
from homeostat.core.random import Draw
from homeostat.streams.data import Data, resolve
from homeostat.studies.lab.expectation import Expectation, Measure, Precondition, difference, primary
from homeostat.studies.lab.forgetting import held_out, shifted
from homeostat.studies.lab.study import Study
from homeostat.studies.lab.training import ArmSetup, StudyLoop, accuracy, attached
from homeostat.treatments.sparsity.granet import GraNet

_SPARSITIES = (0.95, 0.98)
_RATE = 0.2


@dataclass(frozen=True)
class _Arm:
    """Training of one arm.

    Args:
        says: description of the difference.
        times: number of applications of the treatment in the whole training; 0 means none.
        options: of GraNet.
        rate: the largest learning rate.
    """

    says: str
    times: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    rate: float = _RATE

    def treatment(self, steps: int) -> GraNet | None:
        """GraNet over the given number of steps, with pruning in the first half."""
        if not self.times:
            return None
        return GraNet(every=max(1, steps // self.times), end=steps // 2, horizon=steps, **self.options)


_METHODS = {
    "no regrowth": _Arm("gradual magnitude pruning", 60, {"regrow": 0.0}),
    "GraNet": _Arm("the same, and connections are exchanged for those of largest gradient", 10),
    "GraNet from 50%": _Arm("GraNet that begins with half of the weights, at random", 60, {"initial": 0.5}),
    "random regrowth": _Arm("GraNet that switches on at random instead of by gradient", 20, {"growth": "random"}),
}
_GRADUAL = {
    "dense": _Arm("not pruned"),
    **{
        f"{sparsity:.0%}, {name}": replace(arm, options={"sparsity": sparsity, **arm.options})
        for sparsity in _SPARSITIES
        for name, arm in _METHODS.items()
    },
    "98%, no regrowth, half the rate": _Arm(
        "gradual magnitude pruning at half the learning rate", 20, {"sparsity": 0.98, "regrow": 0.0}, _RATE / 2
    ),
    "98%, GraNet, half the rate": _Arm("GraNet at half the learning rate", 60, {"sparsity": 0.98}, _RATE / 2),
}
_PROBES = {
    "probe, pruned": ("a dense network; at five checkpoints a copy is pruned at once to 98% and trained on", 0.0),
    "probe, regrown": ("the same, and the copy exchanges connections as GraNet does", 0.5),
}


@dataclass(frozen=True, kw_only=True)
class GraNetStudy(Study):
    """64-300-100-10 ReLU networks on 6,740 digits (every image and its four shifts by a pixel), evaluated on a held-out
    quarter of the digits; SGD with momentum 0.9 and decay 5e-4; the learning rate follows half a cosine to 0.

    Pruning is gradual over the first half of training. Final: accuracy at the end. The probes take a dense network at
    10, 30, 50, 70 and 90% of its training, prune a copy of it to 98% at once and train the copy for 300 steps at the
    checkpoint's learning rate, with or without exchanging connections every 25 steps (from half of them down to none);
    both copies have the same number of weights. Recovered: accuracy then. Plasticity: recovered minus the accuracy of
    the checkpoint. Early and late: recovered, mean of the first and of the last two checkpoints. Not included: CIFAR
    and ImageNet, residual networks, and the paper's plasticity at other sparsities.
    """

    name: ClassVar[str] = "granet"
    cite: ClassVar[Cite | tuple[Cite, ...]] = GraNet.cite
    claim: ClassVar[str] = (
        "Regenerating as many connections as are removed raises pruning plasticity, also late in training, and so the "
        "accuracy of networks that are pruned gradually during training."
    )
    series: ClassVar[str] = "plasticity"
    remarks: ClassVar[str] = (
        "Exchanging connections gained nothing here. At 98% it costs 0.6 points on average (95.8% against 96.4%), with "
        "an interval that includes 0; at 95%, which was not judged, the same 0.6 points with an interval that does not "
        "(-1.0 to -0.3). Starting with half of the weights is the best arm at 98% (96.7%), but within the noise. At "
        "half the learning rate a gain of 1.3 points on the four tuning seeds became 0.1 on the judged seeds (-0.5 to "
        "0.8). Growth by gradient does not differ from random growth (0.1, -0.5 to 0.8), with each method at its best "
        "frequency. Probed networks recover worse with regrowth at the first checkpoint (by 1.5 points), slightly "
        "better at the next three (0.3 to 0.8) and equally at the last, where the learning rate is 0.005. Likely "
        "cause, not tested: with 1,004 weights for ten easy classes, magnitude finds the needed weights, and a weight "
        "that is activated at 0 while the rate falls to 0 stays too small to survive the next exchange."
    )
    first_seed: ClassVar[int] = 200
    tuning: ClassVar[str] = (
        "on seeds 100 to 103, by final accuracy at 98%: the learning rate (0.1, 0.2 or 0.3, one for all arms) and, at "
        "0.1 and 0.2, how often each method acts (20 or 60 times in training, at 0.2 also 10). The probes were looked "
        "at on seeds 100 and 101, also at 90 and 95%, and with a single exchange of half of the weights at the "
        "checkpoint, where regrowth was worse. Their sparsity is that of the first expectation; their length is a "
        "fifth of training, which we take to be the length of the paper's recovery"
    )
    arms: ClassVar[Mapping[str, str]] = {
        **{name: arm.says for name, arm in _GRADUAL.items()},
        **{name: says for name, (says, _) in _PROBES.items()},
    }
    expectations: ClassVar[tuple[Expectation, ...]] = primary(
        (
            Expectation(
                "at 98% GraNet ends with more accuracy than pruning without regrowth",
                difference("98%, GraNet", "98%, no regrowth", "final"),
            ),
            Expectation(
                "at the two last checkpoints a pruned network recovers to more accuracy with regrowth than without",
                difference("probe, regrown", "probe, pruned", "late"),
            ),
        ),
        "at 98% GraNet ends with more accuracy",
        margin=0.005,
    )
    because: ClassVar[str] = (
        "The accuracy of gradually pruned networks is what the abstract claims for the method; plasticity is its "
        "explanation."
    )
    preconditions: ClassVar[tuple[Precondition, ...]] = (
        Precondition(
            "gradual pruning to 98% without regrowth costs more than 1 point against the dense network",
            difference("dense", "98%, no regrowth", "final"),
            0.01,
            ("dense", "98%, no regrowth"),
        ),
    )
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"widths": (20,), "steps": 40, "batch": 20, "recovery": 12},
        "paper": {"widths": (300, 100), "steps": 1500, "batch": 64, "recovery": 300},
    }

    def run(self, arm: str, seed: int, budget: str) -> dict[str, Measure]:
        sizes = self.sizes(budget)
        learn, judge = held_out(resolve(self.data), seed)
        model = ArmSetup("").network(learn.inputs.shape[1], sizes["widths"], learn.classes)
        rate = _GRADUAL[arm].rate if arm in _GRADUAL else _RATE
        optimizer = SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4, foreach=True)
        learn = shifted(learn, math.isqrt(learn.inputs.shape[1]))
        training = SparseTraining(model, optimizer, learn, judge, sizes, rate, seed)
        if arm in _PROBES:
            return training.probed(_PROBES[arm][1])
        return {"final": training.whole(_GRADUAL[arm].treatment(sizes["steps"]))}


@dataclass
class SparseTraining:
    """Training of one network, with or without probes.

    Args:
        model, optimizer: the initialised network and a new optimizer.
        learn, judge: training and held-out items.
        sizes: of the budget.
        rate: initial learning rate.
        seed: of the batches and of treatments.
    """

    model: nn.Module
    optimizer: Optimizer
    learn: Data
    judge: Data
    sizes: Mapping[str, Any]
    rate: float
    seed: int

    def accuracy(self) -> float:
        """Accuracy on the held-out items."""
        return accuracy(self.model, self.judge.inputs, self.judge.labels)

    def whole(self, treatment: GraNet | None) -> float:
        """Train to the end. Return the accuracy."""
        with self.attached(treatment) as loop:
            for batch in self._batches():
                loop.step(*batch)
        return self.accuracy()

    def probed(self, regrow: float) -> dict[str, Measure]:
        """Train densely. Return the accuracies that copies pruned at five checkpoints recover."""
        loop, before, recovered = StudyLoop(self.model, self.optimizer, None), list[float](), list[float]()
        checkpoints = {int(share * self.sizes["steps"]) for share in (0.1, 0.3, 0.5, 0.7, 0.9)}
        for step, batch in enumerate(self._batches(), 1):
            loop.step(*batch)
            if step in checkpoints:
                before.append(self.accuracy())
                recovered.append(self._recovery(regrow, step))
        plasticity = [round(after - first, 4) for first, after in zip(before, recovered, strict=True)]
        return {
            "early": sum(recovered[:2]) / 2,
            "late": sum(recovered[-2:]) / 2,
            "plasticity": plasticity,
            "recovered": [round(value, 4) for value in recovered],
        }

    def attached(self, treatment: GraNet | None) -> AbstractContextManager[StudyLoop]:
        """The training loop, with the treatment if there is one."""
        return attached(self.model, self.optimizer, [treatment] if treatment else (), self.seed)

    def _recovery(self, regrow: float, step: int) -> float:
        """Accuracy of a copy that is pruned at once, at the first step that is due, and then trained."""
        model, optimizer = copy.deepcopy((self.model, self.optimizer))
        other = replace(self, model=model, optimizer=optimizer)
        length, chance = self.sizes["recovery"], Draw(self.seed, ("study", "recovery", step)).generator("items")
        schedule = {"every": max(1, length // 12), "end": 1, "horizon": length}
        with other.attached(GraNet(sparsity=max(_SPARSITIES), regrow=regrow, **schedule)) as loop:
            for _ in range(length):
                loop.step(*self._drawn(chance))
        return other.accuracy()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of the whole training. Sets the learning rate before each."""
        steps, chance = self.sizes["steps"], Draw(self.seed, ("study", "batches")).generator("items")
        for step in range(steps):
            self.optimizer.param_groups[0]["lr"] = self.rate * (1 + math.cos(math.pi * step / steps)) / 2
            yield self._drawn(chance)

    def _drawn(self, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(self.learn), (self.sizes["batch"],), generator=chance)
        return self.learn.inputs[chosen], self.learn.labels[chosen]
