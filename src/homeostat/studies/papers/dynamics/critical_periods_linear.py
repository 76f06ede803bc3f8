"""Critical learning periods in deep linear networks: a source missing early is never fully used; this needs depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from homeostat.core.component import Cite
from homeostat.streams.data import resolve
from homeostat.studies.lab.expectation import Expectation, Measure, Measures, number, primary
from homeostat.studies.lab.study import Study
from homeostat.studies.lab.two_sources import Deficit, Problem, descend, learning_time, race

DEPTHS = (1, 2, 4)
LENGTHS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
LATE = 3.0
"""Onset of the late deficits, in learning times."""
HALVES = "halves of digits"


def _arm(depth: int) -> str:
    return f"depth {depth}"


def _drop(depth: int, when: str = "early") -> Any:
    return lambda arms: number(arms[_arm(depth)], f"drop, {when}")


def _smallest_step(depth: int) -> Any:
    """Smallest fall of the share from one deficit to the next longer one."""

    def effect(arms: Mapping[str, Measures]) -> float:
        share = arms[_arm(depth)]["share"]
        assert isinstance(share, list)
        return float(-np.diff(share).max())

    return effect


def _expected(depth: int) -> tuple[Expectation, ...]:
    early, late = _drop(depth), _drop(depth, "late")
    miss = f"depth {depth}: the equation foretells every share to 0.05"
    return (
        Expectation(f"depth {depth}: the longer the early deficit, the smaller the final share", _smallest_step(depth)),
        Expectation(f"depth {depth}: late deficits cost less than half", lambda arms: early(arms) / 2 - late(arms)),
        Expectation(miss, lambda arms: -number(arms[_arm(depth)], "miss of the equation"), -0.05),
    )


@dataclass(frozen=True, kw_only=True)
class CriticalPeriodsLinearStudy(Study):
    """Two noisy views of three hidden variables feed one path each of a linear network. One view is set to zero for
    some time (the deficit).

    The share is b / (a + b), with a and b the strengths of a mode in the two paths and b that of the path with the
    deficit, mean over the modes. Without a deficit it is a half. Deficits of seven lengths start at once, or after
    three learning times. Then training continues for two learning times plus four times the time in which a network of
    depth 1 equalises its paths. A learning time is the time in which a network without deficit reaches half its
    strength. Lengths are in units of the network's own learning time, except at depth 1, which uses those of depth 4.
    The drop is the mean loss of share over the six lengths above 0. Every network is trained by gradient descent on the
    moments of a finite sample, and predicted by the equation for infinitely many samples.

    The paper has no noise in the sources; then every split of a feature is an optimum, and even depth 1 never recovers.
    "halves of digits" is not judged: a ReLU network with one path for each half of the image. Its share is the share of
    a half in the change of the outputs when that half is taken from another image.
    """

    name: ClassVar[str] = "critical-periods-linear"
    cite: ClassVar[Cite | tuple[Cite, ...]] = Cite.of("critical-periods-linear")
    claim: ClassVar[str] = (
        "If one source is missing for some time early in training, a deep linear network permanently uses it less. A "
        "later deficit has no such effect. The effect needs depth and grows with it."
    )
    series: ClassVar[str] = "share"
    remarks: ClassVar[str] = (
        "A deeper network is worse if lengths are counted in its own learning time. In equal time it is not, at these "
        "sizes: after the longest deficit of depth 2, depth 2 keeps a share of 0.31 and depth 4, which learns later, "
        "0.45. Without noise in the sources a late deficit is lasting too, because path A then learns to replace B; in "
        "the authors' simulation it is harmless because a path without input keeps its output."
    )
    tuning: ClassVar[str] = (
        "noise, strengths and initial scale, so that depth 1 equalises its paths in the given time; epochs and "
        "learning rate of the digits; all on seed 1000. There a rate of 0.2 in place of 0.05 changed no share by more "
        "than 0.01, so the linear networks take steps of 0.1 now; the digits have fewer items and epochs than before"
    )
    changed: ClassVar[str] = (
        "One primary expectation for each part of the claim decides, on new seeds. Learning rate and digits were made "
        "cheaper, see what was tuned; the problem is the same"
    )
    arms: ClassVar[Mapping[str, str]] = {
        **{_arm(depth): f"linear paths of {depth} matrices" for depth in DEPTHS},
        HALVES: "a ReLU network on the left and right halves of digits",
    }
    expectations: ClassVar[tuple[Expectation, ...]] = primary(
        (
            *_expected(2),
            *_expected(4),
            Expectation("deficits cost more at depth 4 than at depth 2", lambda arms: _drop(4)(arms) - _drop(2)(arms)),
            Expectation("deficits cost more at depth 2 than at depth 1", lambda arms: _drop(2)(arms) - _drop(1)(arms)),
            Expectation("at depth 1 deficits cost less than 0.02", lambda arms: -abs(_drop(1)(arms)), -0.02),
        ),
        "depth 2: the longer the early deficit",
        "deficits cost more at depth 4",
        margin=0.01,
    )
    because: ClassVar[str] = (
        "The claim has two parts: an early deficit is permanent in a deep linear network, and the effect grows "
        "with depth."
    )
    budgets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"samples": 200, "start": 0.05, "rate": 0.2, "width": 4, "epochs": 1, "items": 200},
        "paper": {"samples": 4000, "start": 1e-3, "rate": 0.1, "width": 12, "epochs": 4, "items": 600},
    }
    strengths: ClassVar[tuple[float, ...]] = (0.6, 0.5, 0.4)
    noise: ClassVar[float] = 0.5

    def run(self, arm: str, seed: int, budget: str) -> dict[str, Measure]:
        sizes = self.sizes(budget)
        if arm == HALVES:
            return self._halves(sizes, seed)
        return self._linear(int(arm.removeprefix("depth ")), sizes, np.random.default_rng((seed, 2308)))

    def _linear(self, depth: int, sizes: Mapping[str, Any], generator: np.random.Generator) -> dict[str, Measure]:
        problem = Problem.draw(self.strengths, self.noise, sizes["samples"], 8, 6, generator)
        starts = sizes["start"] * (1 + 0.1 * generator.standard_normal(len(self.strengths)))
        deficits, ends = self.protocol(depth, sizes["start"])
        found = descend(problem, depth, sizes["width"], starts, deficits, ends, sizes["rate"], generator)
        share = (found[:, 1] / found.sum(1)).mean(1)
        predicted = [self._predicted(depth, starts, deficit, end) for deficit, end in zip(deficits, ends, strict=True)]
        early, late = share[: len(LENGTHS)], share[[0, *range(len(LENGTHS), 2 * len(LENGTHS) - 1)]]
        return {
            "drop, early": _lost(early),
            "drop, late": _lost(late),
            "miss of the equation": float(np.abs(share - predicted).max()),
            "share, as long as depth 2's longest": float(share[-1]),
            "share": _plain(early),
            "share, late": _plain(late),
            "share by the equation": _plain(np.asarray(predicted[: len(LENGTHS)])),
        }

    def protocol(self, depth: int, start: float) -> tuple[list[Deficit], list[float]]:
        """Deficits and ends of training: early deficits of every length, late ones of every length but 0, and one more
        early one, as long as the longest of depth 2."""
        time = {d: learning_time(d, max(self.strengths), self.noise, start) for d in DEPTHS}
        own = time[depth]
        lengths = [x * (time[max(DEPTHS)] if depth == 1 else own) for x in LENGTHS]
        deficits = [(0.0, x) for x in lengths] + [(LATE * own, LATE * own + x) for x in lengths[1:]]
        deficits.append((0.0, LENGTHS[-1] * time[2]))
        return deficits, [until + 2 * own + 4 / self.noise for _, until in deficits]

    def _predicted(self, depth: int, starts: Sequence[float] | np.ndarray, deficit: Deficit, end: float) -> float:
        """The share by the equation, mean over the modes."""
        modes = [race(depth, s, self.noise, a, deficit, end) for s, a in zip(self.strengths, starts, strict=True)]
        return float(np.mean([b / (a + b) for a, b in modes]))

    def _halves(self, sizes: Mapping[str, Any], seed: int) -> dict[str, Measure]:
        source, epochs = resolve(self.data), sizes["epochs"]
        count = sizes["items"] or len(source)
        pixels = source.inputs[:count].reshape(count, 8, -1)
        halves = [part.flatten(1) for part in pixels.chunk(2, dim=2)]
        plan = [(0, x * epochs // 2) for x in range(5)] + [(3 * epochs, 5 * epochs)]
        share = [half_share(halves, source.labels[:count], d, d[1] + 3 * epochs, seed) for d in plan]
        return {
            "drop, early": _lost(share[:-1]),
            "drop, late": share[0] - share[-1],
            "share": _plain(np.asarray(share[:-1])),
        }


def _lost(share: Sequence[float] | np.ndarray) -> float:
    """Share without a deficit minus the mean share with one."""
    return float(share[0] - np.mean(share[1:]))


def _plain(values: np.ndarray) -> list[float]:
    return [round(float(v), 5) for v in values]


class HalfNet(nn.Module):
    """A path of two ReLU layers for each half, added into one linear output."""

    def __init__(self, inputs: int, classes: int, width: int = 64) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.Sequential(
                nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
            )
            for _ in range(2)
        )

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.paths[0](left) + self.paths[1](right)


def half_share(halves: Sequence[Tensor], labels: Tensor, deficit: tuple[int, int], epochs: int, seed: int) -> float:
    """Train with a black right half in the epochs of the deficit. Return the share of the right half.

    The weight of a half is the mean square change of the outputs when it is taken from another image.
    """
    torch.manual_seed(seed)
    model = HalfNet(halves[0].shape[1], int(labels.max()) + 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for epoch in range(epochs):
        shut = deficit[0] <= epoch < deficit[1]
        for picked in torch.randperm(len(labels)).split(64):
            left, right = (half[picked] for half in halves)
            outputs = model(left, torch.zeros_like(right) if shut else right)
            optimizer.zero_grad()
            nn.functional.cross_entropy(outputs, labels[picked]).backward()
            optimizer.step()
    with torch.no_grad():
        weights = [
            (path(half) - path(half.roll(7, 0))).square().mean() for path, half in zip(model.paths, halves, strict=True)
        ]
    return float(weights[1] / (weights[0] + weights[1]))
