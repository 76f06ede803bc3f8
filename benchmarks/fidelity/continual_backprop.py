"""Continual backprop beside lop/algos/gnt.py of github.com/shibhansh/loss-of-plasticity.

Two equal networks get equal batches. One is treated by the authors' class, the other through `homeostat.attach`. The
fresh incoming weights are random in both, so those of the authors are copied. Then everything else must be equal: which
units are replaced at which step, and all weights. A weight between two units that are replaced in the same step ends up
fresh in the authors' code and zero in ours; these are copied too, and counted.

With Adam both networks use torch's, and the authors' class clears its moments. Their own Adam counts steps per element.
"""

from __future__ import annotations

from typing import Any

import torch
from beside import checkout, gap, show, watched
from torch import Tensor, nn
from torch.nn import functional as F

import homeostat
from homeostat.treatments import ContinualBackprop

REPOSITORY = "github.com/shibhansh/loss-of-plasticity"
STEPS, RATE, MATURITY, DECAY = 1000, 0.01, 20, 0.9
UTILITIES = {
    "contribution": "contribution",
    "zero_contribution": "mean-corrected",
    "adaptable_contribution": "adaptable",
}
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


class Moments:
    """torch's Adam, shown to the authors' class as the optimizer it expects, which has a step count per element."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def state(self) -> dict[Any, dict[str, Tensor]]:
        found = self.optimizer.state
        return {p: {**found[p], "step": torch.zeros_like(p)} for p in found}


def network(act: str, depth: int) -> nn.Sequential:
    torch.manual_seed(5)
    layers: list[nn.Module] = []
    for width in range(depth):
        layers += [nn.Linear(8 if width == 0 else 24, 24), ACTIVATIONS[act]()]
    return nn.Sequential(*layers, nn.Linear(24, 4))


def features(model: nn.Sequential, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    found = []
    for i, module in enumerate(model):
        x = module(x)
        if i % 2:
            found.append(x.detach())
    return x, found


def batch(step: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(step)
    x = torch.randn(16, 8, generator=g)
    return x, ((x[:, 0] * (-1) ** (step // 200)).sign().long() + (x[:, 1] > 0) + 1)


def compared(act: str, utility: str, adam: bool, depth: int = 2) -> dict[str, Any]:
    """Train both for all steps."""
    from lop.algos.gnt import GnT

    theirs, ours = network(act, depth), network(act, depth)
    optimizers = [
        torch.optim.Adam(m.parameters(), lr=3e-3) if adam else torch.optim.SGD(m.parameters(), lr=0.05)
        for m in (theirs, ours)
    ]
    gnt = GnT(theirs, act, optimizers[0], DECAY, RATE, util_type=utility, maturity_threshold=MATURITY, accumulate=True)
    if adam:
        gnt.opt, gnt.opt_type = Moments(optimizers[0]), "adam"
    settings = {"replacement_rate": RATE, "decay_rate": DECAY, "maturity_threshold": MATURITY}
    treatment = ContinualBackprop(**settings, utility=UTILITIES[utility])
    resets = watched(treatment)
    replaced = other = between = 0
    worst = 0.0
    with homeostat.attach(ours, optimizers[1], treatments=[treatment], vitals=(), strict=True):
        for step in range(STEPS):
            x, y = batch(step)
            seen: list[list[Tensor]] = []
            for model, optimizer in zip((theirs, ours), optimizers, strict=True):
                out, acts = features(model, x) if model is theirs else (model(x), [])
                optimizer.zero_grad()
                F.cross_entropy(out, y).backward()
                optimizer.step()
                seen.append(acts)
            gnt.gen_and_test(seen[0])
            chosen = [age == 0 for age in gnt.ages]
            mine = [resets.get(f"{2 * i}.weight", torch.zeros(24, dtype=torch.bool)) for i in range(depth)]
            replaced += sum(int(c.sum()) for c in chosen)
            other += sum(int((c != m).sum()) for c, m in zip(chosen, mine, strict=True))
            between += copy_fresh(theirs, ours, chosen)
            worst = max(worst, gap(theirs, ours))
    return {
        "optimizer": "Adam" if adam else "SGD", "activation": act, "layers": depth, "utility": UTILITIES[utility],
        "steps": STEPS, "replaced": replaced, "other units": other, "between two": between, "largest gap": worst,
    }  # fmt: skip


@torch.no_grad()
def copy_fresh(theirs: nn.Sequential, ours: nn.Sequential, chosen: list[Tensor]) -> int:
    """Copy the incoming weights of replaced units; returns the number of weights between two replaced units."""
    between = 0
    for i, mask in enumerate(chosen):
        ours[2 * i].weight[mask] = theirs[2 * i].weight[mask]
        if i:
            between += int(mask.sum()) * int(chosen[i - 1].sum())
    return between


def young(threshold: int, steps: int = 8_000, width: int = 100, within: int = 50) -> dict[str, Any]:
    """The random control: the share of replaced units that matured at most `within` steps before, in both codes."""
    from lop.algos.gnt import GnT

    shares = {}
    for code in ("theirs", "ours"):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        ages = torch.zeros(width)
        gnt = GnT(model, "tanh", optimizer, 0.99, 1e-3, "default", "cpu", threshold, "random", accumulate=True)
        treatment = ContinualBackprop(replacement_rate=1e-3, maturity_threshold=threshold, utility="random")
        used = [treatment] if code == "ours" else []
        total = early = 0
        with homeostat.attach(model, optimizer, treatments=used, vitals=(), strict=True):
            for _ in range(steps):
                out, acts = features(model, torch.randn(1, 2))
                if code == "ours":
                    out = model(torch.randn(1, 2))
                optimizer.zero_grad()
                out.sum().backward()
                optimizer.step()
                if code == "theirs":
                    gnt.gen_and_test(acts)
                ages += 1
                gone = (model[2].weight == 0).all(0)
                early += int((gone & (ages <= threshold + within)).sum())
                total += int(gone.sum())
                ages[gone] = 0
                with torch.no_grad():
                    model[2].weight[:, gone] = 1.0
        shares[code] = f"{early / total:.1%} of {total}"
    return {"random control, maturity": threshold, f"matured <= {within} steps before, theirs": shares["theirs"],
            "ours": shares["ours"]}  # fmt: skip


if __name__ == "__main__":
    checkout(REPOSITORY)
    rows = [compared(act, utility, adam) for adam in (False, True) for act in ACTIVATIONS for utility in UTILITIES]
    show([*rows, compared("tanh", "contribution", False, depth=3)])
    print()
    show([young(threshold) for threshold in (100, 20)])
