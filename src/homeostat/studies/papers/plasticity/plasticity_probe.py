"""The plasticity probe: what a network can still learn, and which other vitals change with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from homeostat.core.component import Cite
from homeostat.core.random import Draw
from homeostat.core.snapshot import Probe
from homeostat.streams import RandomLabels
from homeostat.studies.lab.expectation import Expectation, Measure, Measures, Precondition, difference, fall, primary
from homeostat.studies.lab.study import Study
from homeostat.studies.lab.training import FAST_ADAM, ArmSetup, hidden, l2, train
from homeostat.treatments import ShrinkAndPerturb
from homeostat.vitals import dead_fraction, effective_rank, plasticity, sharpness

_SETUPS: dict[str, ArmSetup] = {
    "plain": ArmSetup("ReLU network, nothing done"),
    "layer norm": ArmSetup("a LayerNorm before every nonlinearity", layer_norm=True),
    "l2": l2("L2 of 1e-4 in the loss", 1e-4),
    "shrink-and-perturb": ArmSetup("weights shrunk and perturbed after every step", treatments=(ShrinkAndPerturb(),)),
    "adam eps 1e-3": ArmSetup("Adam with epsilon 1e-3 instead of 1e-8", optimizer=partial(FAST_ADAM, eps=1e-3)),
    "tanh": ArmSetup("tanh instead of ReLU", nonlinearity=nn.Tanh),
}
_ADAM = {"batch_size": 25, "rate": 3e-3}
VITALS = ("sharpness", "gradient rank", "dead", "weight norm")


def _series(measures: Measures, name: str) -> list[float]:
    value = measures[name]
    assert isinstance(value, list)
    return value


def rank_correlation(x: list[float], y: list[float]) -> float:
    """Spearman's rank correlation over the complete pairs; NaN if one side is constant."""
    from scipy import stats

    both = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    columns = list(zip(*both, strict=True)) or [(), ()]
    if len(both) < 3 or min(len(set(column)) for column in columns) < 2:
        return math.nan
    first, second = columns
    found: Any = stats.spearmanr(first, second)
    return float(found.statistic)


def _pooled(arms: Mapping[str, Measures], vital: str) -> float:
    """Strength of the rank correlation of a vital with P, over all phases of all arms of one seed."""
    x = [value for arm in _SETUPS for value in _series(arms[arm], vital)]
    return abs(rank_correlation(x, [value for arm in _SETUPS for value in _series(arms[arm], "P")]))


def _curvature_over_death(arms: Mapping[str, Measures]) -> float:
    return _pooled(arms, "sharpness") - _pooled(arms, "dead")


def _layer_norm_over_next(arms: Mapping[str, Measures]) -> float:
    return min(difference("layer norm", arm, "P, mean")(arms) for arm in _SETUPS if arm != "layer norm")


def _foresight(arms: Mapping[str, Measures]) -> float:
    """Rank correlation of P at a phase's end with the accuracy reached on the next labels, over all arms of a seed."""
    before = [value for arm in _SETUPS for value in _series(arms[arm], "P")]
    return rank_correlation(before, [value for arm in _SETUPS for value in _series(arms[arm], "next")])


@dataclass(frozen=True, kw_only=True)
class PlasticityProbeStudy(Study):
    """Memorise random labels of 100 digits, drawn again 40 times, 20 passes each; 64-128-128-10 network, Adam at 3e-3.

    At the end of every second task a copy of the network fits new random targets (P, the vital `plasticity`), and
    sharpness, the rank of the cosines of per-example gradients, dead units and weight norm are measured. The paper's
    two-hot regression arm and its agents on Atari are not included.
    """

    name: ClassVar[str] = "plasticity-probe"
    cite: ClassVar[Cite | tuple[Cite, ...]] = Cite.of("plasticity-probe")
    claim: ClassVar[str] = (
        "Plasticity, measured by fitting new targets, is lost in ordinary training. The loss correlates with the "
        "curvature of the loss function more than with dead units, and layer normalisation preserves plasticity best."
    )
    series: ClassVar[str] = "P"
    remarks: ClassVar[str] = (
        "In these small ReLU networks plasticity is lost mainly because units die: within an arm, dead units correlate "
        "with P (rank correlation -0.74 to -0.87) more than sharpness does. This does not contradict the paper's point "
        "that plasticity can also be lost without dead units, but its explanation by curvature is not seen here. The "
        "probe itself works: it predicts how well the next labels will be learned. Two-hot regression and agents on "
        "Atari were not tried."
    )
    tuning: ClassVar[str] = (
        "learning rate (1e-3 or 3e-3) and number of items (800, 160 or 100) on seed 1000, with plain training and "
        "layer norm; the expectations were written before"
    )
    arms: ClassVar[Mapping[str, str]] = {name: setup.says for name, setup in _SETUPS.items()}
    expectations: ClassVar[tuple[Expectation, ...]] = primary(
        (
            Expectation("plain training: P falls by more than 0.05", fall("plain", "P, early", "P, late"), 0.05),
            Expectation(
                "P, mean over all phases, is higher with layer norm than in any other arm", _layer_norm_over_next
            ),
            Expectation("P goes with sharpness more than with dead units (|rank correlation|)", _curvature_over_death),
            Expectation("P foretells the accuracy on the next labels (rank correlation above 0.5)", _foresight, 0.5),
        ),
        "P, mean over all phases, is higher",
        "P goes with sharpness more",
        margin=0.01,
    )
    because: ClassVar[str] = (
        "The abstract makes two claims: loss of plasticity goes with curvature rather than with saturated units, "
        "and layer normalisation preserves plasticity best."
    )
    preconditions: ClassVar[tuple[Precondition, ...]] = (
        Precondition("plain training: P falls by more than 0.05", fall("plain", "P, early", "P, late"), 0.05),
    )
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"tasks": 4, "epochs": 1, "items": 50, "width": 16, "edge": 1, "fit": 5, **_ADAM},
        "paper": {"tasks": 40, "epochs": 20, "items": 100, "width": 128, "edge": 5, "fit": 100, **_ADAM},
    }

    def run(self, arm: str, seed: int, budget: str) -> dict[str, Measure]:
        sizes, setup = self.sizes(budget), _SETUPS[arm]
        count = {key: sizes[key] for key in ("tasks", "epochs", "items", "batch_size")}
        stream = RandomLabels(data=self.data, seed=seed, **count)
        model = setup.network(stream.source.inputs.shape[1], (sizes["width"],) * 2, stream.source.classes)
        optimizer = setup.optimizer(model.parameters(), lr=sizes["rate"])
        phases = Phases(model, stream, seed, sizes["fit"])
        scores = train(model, optimizer, stream, setup.treatments, seed, phases.after_task)
        return {"accuracy, late": scores.late("end", sizes["edge"]), **phases.summary(sizes["edge"], scores.end)}


@dataclass
class Phases:
    """The measurements at the end of every second task, on all its items."""

    model: nn.Sequential
    stream: RandomLabels
    seed: int
    steps: int
    series: dict[str, list[float]] = field(default_factory=dict)
    tasks: list[int] = field(default_factory=list)

    def after_task(self, task: int) -> None:
        """Measure, if this task is due and not the last."""
        if task % 2 or task + 1 >= self.stream.count:
            return
        self.tasks.append(task)
        self.model.eval()
        probe = self.probe(task)
        found = {
            "P": plasticity(probe, self.steps),
            "sharpness": sharpness(probe, tolerance=0.05, iterations=100)[0],
            "gradient rank": gradient_rank(probe),
            "dead": torch.stack([dead(layer) for layer in hidden(self.model, probe.inputs)]).mean(),
            "weight norm": torch.stack([p.detach().square().sum() for p in self.model.parameters()]).sum().sqrt(),
        }
        self.model.train()
        for name, value in found.items():
            self.series.setdefault(name, []).append(float(f"{float(value):.5g}"))

    def probe(self, task: int) -> Probe:
        """A probe of the current network, on all items with the labels of a task."""
        inputs, labels = self.stream.whole(task)

        def outputs(parameters: Mapping[str, Tensor]) -> Tensor:
            return functional_call(self.model, dict(parameters), (inputs,))

        return Probe(
            parameters={name: p.detach().clone() for name, p in self.model.named_parameters()},
            inputs=inputs,
            targets=labels,
            outputs=outputs,
            loss=lambda p: nn.functional.cross_entropy(outputs(p), labels),
            draw=Draw(self.seed, ("study", task)),
        )

    def summary(self, edge: int, end: list[float]) -> dict[str, Measure]:
        """P early, late and on average, its correlation with each vital within the arm, and the series."""
        p = self.series["P"]
        means = {"P, early": p[:edge], "P, late": p[-edge:], "P, mean": p}
        within = {f"{vital} with P": rank_correlation(self.series[vital], p) for vital in VITALS}
        return {
            **{name: sum(values) / len(values) for name, values in means.items()},
            **within,
            **self.series,
            "next": [end[task + 1] for task in self.tasks],
        }


def dead(layer: Tensor) -> Tensor:
    """Share of units that are constant over all items: a definition of "dead" that also applies to tanh."""
    return dead_fraction(layer, "unknown")


def gradient_rank(probe: Probe, items: int = 64) -> Tensor:
    """Effective rank of the matrix of per-example gradients, each scaled to length one: 1 (all point one way) to
    `items` (all orthogonal). Its Gram matrix is the paper's matrix of gradient cosines."""
    losses = nn.functional.cross_entropy(probe.outputs(live := _live(probe)), probe.targets, reduction="none")
    rows = [torch.autograd.grad(loss, list(live.values()), retain_graph=True) for loss in losses[:items]]
    flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    return effective_rank(nn.functional.normalize(flat, dim=1))


def _live(probe: Probe) -> dict[str, Tensor]:
    return {name: p.clone().requires_grad_() for name, p in probe.parameters.items()}
