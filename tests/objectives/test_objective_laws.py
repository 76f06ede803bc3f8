"""Objectives keep the laws with settings other than the defaults; broken ones are caught."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from homeostat.core.component import Cite
from homeostat.core.objective import Field, Losses, Objective, counted
from homeostat.objectives import ClipCov, ClippedPolicyGradient, DPOShift, Entropic, EntropyBonus, KLCov
from homeostat.testing.check import check_component


@pytest.mark.parametrize(
    "objective",
    [
        ClippedPolicyGradient(low=0.05, high=0.1, dual=1.1),
        Entropic(alpha=-0.7, threshold=0.5),
        Entropic(alpha=0.7, threshold=0.9999),
        ClipCov(fraction=0.2, lower=-0.5, upper=3.0, low=0.2, high=0.3),
        ClipCov(fraction=1.0, lower=-1e3, upper=1e3),
        KLCov(fraction=0.3, beta=0.5),
        KLCov(fraction=1.0),
        DPOShift(shift=0.0, beta=3.0),
        EntropyBonus(weight=0.0),
    ],
    ids=lambda o: f"{o.name}-{'-'.join(f'{v:g}' for v in o.settings().values())}",
)
def test_laws_with_other_settings(objective):
    report = check_component(objective)
    assert report.ok, str(report)


@dataclass(frozen=True, kw_only=True)
class _Bad(Objective, abstract=True):
    """An objective that breaks laws, to see that the checks can fail: minus the mean log-probability.

    >>> _Bad.name
    """

    cite = Cite("Nobody", 2000, "Nothing")
    name = "bad"
    fields: ClassVar = {
        "mask": Field("token", "mask"),
        "logp": Field("token", "log-probability", "mask", gradient=True),
    }
    reducers: ClassVar = {"tokens": "sum"}
    fault: str = "none"

    def measure(self, batch, knobs):
        return {"tokens": batch["mask"].sum((-2, -1)).double()}

    def losses(self, batch, stats, knobs):
        mask, logp = batch["mask"], batch["logp"]
        values = counted(logp, mask) if self.fault != "padding" else logp * mask
        if self.fault != "extremes":
            values = values.clamp(min=-1e4)
        count = stats["tokens"].clamp(min=1) if self.fault != "empty" else stats["tokens"]
        if self.fault == "micro":
            count = mask.sum().clamp(min=1)
        if self.fault == "first":
            values = values * (torch.arange(len(values)) < 3)[:, None]
        if self.fault == "noise":
            values = values * torch.rand(1)
        told = {"mean": values / 2 if self.fault == "graph" else values.detach()}
        return Losses(-values / count.reshape(count.shape + (1, 1) * bool(count.ndim)).to(values.dtype), told)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("padding", "padding"),
        ("first", "order"),
        ("micro", "split"),
        ("extremes", "finite"),
        ("empty", "empty"),
        ("noise", "pure"),
        ("graph", "pure"),
    ],
)
def test_a_broken_objective_is_caught(fault, law):
    assert law in check_component(_Bad(), only=[law]).passed
    assert law in check_component(_Bad(fault=fault), only=[law]).failed
