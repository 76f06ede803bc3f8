"""AdaB2N beside models/utils/adab2n.py of github.com/lvyilin/AdaB2N.

One layer on the same batches of three tasks, or of two of them, with `absent` "zeros", as in the authors' code:
outputs, gradients of inputs and task weights, running mean. Their variance is the biased one and ours is not, so the
running variance may differ by a factor of n / (n - 1) with n = 192 values; its largest relative difference is told.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from beside import checkout, show
from torch import nn

from homeostat.treatments.normalization.balanced_norm import balanced

REPOSITORY = "github.com/lvyilin/AdaB2N"
BATCHES, TASKS, CHANNELS = 60, 3, 6


def compared(kappa: float) -> dict[str, Any]:
    """Over all batches; after each, the task weights of both move along their own gradient."""
    from adab2n import AdaB2N

    theirs = AdaB2N(nn.BatchNorm2d(CHANNELS), TASKS, 1, kappa=kappa)
    theirs.cur_tasks.fill_(TASKS - 1)
    settings: dict[str, Any] = {"prior": 1.0, "penalty": 0.0, "absent_too": True, "tasks": TASKS}
    ours = balanced(nn.BatchNorm2d(CHANNELS), kappa=kappa, **settings)
    worst = dict.fromkeys(("output", "input gradient", "psi gradient", "running mean"), 0.0)
    variance = 0.0
    for number in range(BATCHES):
        g = torch.Generator().manual_seed(number)
        tasks = torch.randint(TASKS - (number % 3 == 0), (12,), generator=g)
        counts = torch.bincount(tasks, minlength=TASKS)
        x = torch.randn(12, CHANNELS, 4, 4, generator=g) * 2 + tasks.view(-1, 1, 1, 1)
        weight = torch.randn(x.shape, generator=g)
        theirs.set_counts(tasks, counts[tasks], counts)
        ours.composition.begin(tasks, TASKS)
        found = []
        for layer in (theirs, ours):
            live = x.clone().requires_grad_()
            out = layer(live)
            psi = layer.task_weight if layer is theirs else layer.balance.log_concentration
            grads = torch.autograd.grad((out * weight).sum(), [live, psi])
            found.append((out.detach(), *grads, layer.running_mean.clone()))
            with torch.no_grad():
                psi -= 0.05 * grads[1]
        for name, one, other in zip(worst, *found, strict=True):
            worst[name] = max(worst[name], float((one - other).abs().max()))
        variance = max(variance, float((theirs.running_var / ours.running_var - 1).abs().max()))
    return {"kappa": kappa, "batches": BATCHES, **worst, "running var, relative": variance}


if __name__ == "__main__":
    folder = checkout(REPOSITORY)
    sys.path.insert(0, str(folder / "models" / "utils"))
    show([compared(kappa) for kappa in (0.0, 0.25, 0.5, 1.0)])
