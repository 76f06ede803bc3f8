"""CLASSP beside CLASSP.py of github.com/oswaldoludwig/CLASSP.

At power 1 and threshold 0 both do the same: the authors' code applies its threshold to `(grad ** 2).any()`, so it
ignores no gradient, and its sum grows by |g| whatever the power is.
"""

from __future__ import annotations

from typing import Any

import torch
from beside import checkout, gap, show
from continual_backprop import batch, network
from torch.nn import functional as F

import homeostat
from homeostat.treatments import Classp

REPOSITORY = "github.com/oswaldoludwig/CLASSP"
STEPS = 500


def compared(scaling: str, act: str) -> dict[str, Any]:
    """Train both for all steps, with a boundary in the middle."""
    from CLASSP import CLASSP_optimizer

    theirs, ours = network(act, 2), network(act, 2)
    optimizer = CLASSP_optimizer(theirs.parameters(), lr=0.05, threshold=0.5, epsilon=1e-5, power=1)
    ignored = torch.optim.SGD(ours.parameters(), lr=1.0)
    treatment = Classp(rate=0.05, threshold=0.0, power=1.0, epsilon=1e-5, scaling=scaling)
    worst = 0.0
    with homeostat.attach(ours, ignored, treatments=[treatment], vitals=(), strict=True) as run:
        for step in range(STEPS):
            if step == STEPS // 2:
                run.boundary("second")
            x, y = batch(step)
            for model, own in ((theirs, optimizer), (ours, ignored)):
                own.zero_grad()
                F.cross_entropy(model(x), y).backward()
            optimizer.step(apply_scaling=scaling == "always" or (scaling == "later" and step >= STEPS // 2))
            ignored.step()
            worst = max(worst, gap(theirs, ours))
    return {"scaling": scaling, "activation": act, "steps": STEPS, "largest gap": worst}


if __name__ == "__main__":
    checkout(REPOSITORY)
    show([compared(scaling, act) for act in ("relu", "tanh") for scaling in ("always", "later", "never")])
