"""GraNet: does exchanging connections help networks that are pruned gradually, and those that were pruned at once?"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

import homeostat
from homeostat.core.component import Cite
from homeostat.core.draw import Draw
from homeostat.streams.data import Data, resolve
from homeostat.studies.forgetting import held_out, shifted
from homeostat.studies.study import Study
from homeostat.studies.training import Loop, Setup, accuracy
from homeostat.studies.verdict import Expectation, Measure, difference
from homeostat.treatments.granet import GraNet

_SPARSITIES = (0.95, 0.98)
_RATE = 0.2


@dataclass(frozen=True)
class _Arm:
    """How one arm trains.

    Args:
        says: the difference, in words.
        times: how often it is due in the whole training; 0: it is not treated.
        options: of GraNet.
        rate: the largest learning rate.
    """

    says: str
    times: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    rate: float = _RATE

    def treatment(self, steps: int) -> GraNet | None:
        """GraNet over so many steps, pruning in the first half of them."""
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
    """64-300-100-10 ReLU networks on 6,740 digits (every image and its four shifts by a pixel), judged on a quarter of
    the digits held out; SGD with momentum 0.9 and decay 5e-4, the learning rate along half a cosine to 0.

    Pruning is gradual over the first half of training. Final: accuracy at the end. The probes take a dense network at
    10, 30, 50, 70 and 90% of its training, prune a copy of it to 98% at once and train that for 300 steps at the
    checkpoint's learning rate, with and without exchanging connections every 25 steps (from half of them down to none),
    so that both have as many weights. Recovered: accuracy then; plasticity: that minus the checkpoint's own
    accuracy; early and late: recovered, mean of the first and of the last two checkpoints. Left out: CIFAR and
    ImageNet, residual networks, and the paper's plasticity at other sparsities.
    """

    name: ClassVar[str] = "granet"
    cite: ClassVar[Cite | tuple[Cite, ...]] = GraNet.cite
    entries: ClassVar[tuple[str, ...]] = ("granet",)
    claim: ClassVar[str] = (
        "Regenerating as many connections as are removed raises pruning plasticity, late in training too, and with it "
        "the accuracy of networks that are pruned gradually while they learn."
    )
    series: ClassVar[str] = "plasticity"
    remarks: ClassVar[str] = (
        "Exchanging connections gave nothing here. At 98% it costs 0.6 points on average (95.8% against 96.4%), with "
        "an interval that holds 0; at 95%, which was not judged, the same 0.6 points with one that does not (-1.0 to "
        "-0.3). Beginning at half of the weights is the best arm at 98% (96.7%), but within the noise. What had seemed "
        "like a gain of 1.3 points at half the learning rate on the four seeds used for tuning is 0.1 on the judged "
        "ones (-0.5 to 0.8), and gradient growth does not differ from random growth (0.1, -0.5 to 0.8), each method "
        "acting as often as suited it. Probed networks recover worse with regrowth at the first checkpoint (by 1.5 "
        "points), slightly better at the next three (0.3 to 0.8) and alike at the last, where the learning rate is "
        "0.005. Likely cause, not tested: with 1,004 weights for ten easy classes magnitude finds what is needed, and "
        "a weight that is switched on at 0 while the rate falls to 0 stays too small to survive the next exchange."
    )
    paper_seeds: ClassVar[int] = 8
    tuning: ClassVar[str] = (
        "on seeds 100 to 103, by final accuracy at 98%: the learning rate (0.1, 0.2 or 0.3, one for all arms) and, at "
        "0.1 and 0.2, how often each method acts (20 or 60 times in training, at 0.2 also 10). The probes were seen on "
        "seeds 100 and 101, at 90 and 95% too, and with a single exchange of half of the weights at the checkpoint, "
        "where regrowth did worse; their sparsity is that of the first expectation, their length the share of training "
        "(a fifth) that the paper's recovery is believed to have"
    )
    arms: ClassVar[Mapping[str, str]] = {
        **{name: arm.says for name, arm in _GRADUAL.items()},
        **{name: says for name, (says, _) in _PROBES.items()},
    }
    expectations: ClassVar[tuple[Expectation, ...]] = (
        Expectation(
            "at 98% GraNet ends with more accuracy than pruning without regrowth",
            difference("98%, GraNet", "98%, no regrowth", "final"),
        ),
        Expectation(
            "at the two last checkpoints a pruned network recovers to more accuracy with regrowth than without",
            difference("probe, regrown", "probe, pruned", "late"),
        ),
    )
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"widths": (20,), "steps": 40, "batch": 20, "recovery": 12},
        "paper": {"widths": (300, 100), "steps": 1500, "batch": 64, "recovery": 300},
    }

    def run(self, arm: str, seed: int, budget: str) -> dict[str, Measure]:
        sizes = self.sizes(budget)
        learn, judge = held_out(resolve(self.data), seed)
        model = Setup("").network(learn.inputs.shape[1], sizes["widths"], learn.classes)
        rate = _GRADUAL[arm].rate if arm in _GRADUAL else _RATE
        optimizer = SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4, foreach=True)
        learn = shifted(learn, math.isqrt(learn.inputs.shape[1]))
        training = Training(model, optimizer, learn, judge, sizes, rate, seed)
        if arm in _PROBES:
            return training.probed(_PROBES[arm][1])
        return {"final": training.whole(_GRADUAL[arm].treatment(sizes["steps"]))}


@dataclass
class Training:
    """One network's training, whole or taken apart by probes.

    Args:
        model, optimizer: as drawn, and fresh.
        learn, judge: items to learn from and to judge by.
        sizes: of the budget.
        rate: the learning rate at the beginning.
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
        """On the held-out items."""
        return accuracy(self.model, self.judge.inputs, self.judge.labels)

    def whole(self, treatment: GraNet | None) -> float:
        """Train to the end; the accuracy then."""
        with self.attached(treatment) as loop:
            for batch in self._batches():
                loop.step(*batch)
        return self.accuracy()

    def probed(self, regrow: float) -> dict[str, Measure]:
        """Train dense; how well copies recover that are pruned at five checkpoints."""
        loop, before, recovered = Loop(self.model, self.optimizer, None), list[float](), list[float]()
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

    @contextlib.contextmanager
    def attached(self, treatment: GraNet | None) -> Iterator[Loop]:
        """The loop, with the treatment attached where there is one."""
        if treatment is None:
            yield Loop(self.model, self.optimizer, None)
            return
        settings = {"treatments": [treatment], "vitals": (), "seed": self.seed, "strict": True}
        with homeostat.attach(self.model, self.optimizer, **settings) as run:
            yield Loop(self.model, self.optimizer, run)

    def _recovery(self, regrow: float, step: int) -> float:
        """Accuracy of a copy that is pruned at once, at the first step that is due, and trained on."""
        model, optimizer = copy.deepcopy((self.model, self.optimizer))
        other = replace(self, model=model, optimizer=optimizer)
        length, chance = self.sizes["recovery"], Draw(self.seed, ("study", "recovery", step)).generator("items")
        schedule = {"every": max(1, length // 12), "end": 1, "horizon": length}
        with other.attached(GraNet(sparsity=max(_SPARSITIES), regrow=regrow, **schedule)) as loop:
            for _ in range(length):
                loop.step(*self._drawn(chance))
        return other.accuracy()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of the whole training; before each, the learning rate is set."""
        steps, chance = self.sizes["steps"], Draw(self.seed, ("study", "batches")).generator("items")
        for step in range(steps):
            self.optimizer.param_groups[0]["lr"] = self.rate * (1 + math.cos(math.pi * step / steps)) / 2
            yield self._drawn(chance)

    def _drawn(self, chance: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(self.learn), (self.sizes["batch"],), generator=chance)
        return self.learn.inputs[chosen], self.learn.labels[chosen]
