"""ReDo beside lop/algos/gntRedo.py of github.com/shibhansh/loss-of-plasticity, which its authors compare with.

As in continual_backprop.py: equal networks and batches, the authors' fresh weights are copied. That code clears no
optimizer state, so both networks use SGD without momentum. It takes the scores over a history of activations; here the
history is the batch of the step, which is what ours uses.
"""

from __future__ import annotations

from typing import Any

import torch
from beside import checkout, gap, show, watched
from continual_backprop import REPOSITORY, batch, copy_fresh, features, network
from torch.nn import functional as F

import homeostat
from homeostat.treatments import ReDo

STEPS, EVERY = 2000, 20


def compared(act: str, threshold: float) -> dict[str, Any]:
    """Train both for all steps."""
    from lop.algos.gntRedo import GnTredo

    theirs, ours = network(act, 2), network(act, 2)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05) for m in (theirs, ours)]
    redo = GnTredo(theirs, act, threshold=threshold, reset_period=EVERY)
    worst, reset, other = 0.0, 0, 0
    treatment = ReDo(threshold=threshold, every=EVERY)
    resets = watched(treatment)
    with homeostat.attach(ours, optimizers[1], treatments=[treatment], vitals=(), strict=True):
        for step in range(STEPS):
            x, y = batch(step)
            out, acts = features(theirs, x)
            for optimizer, outputs in zip(optimizers, (out, ours(x)), strict=True):
                optimizer.zero_grad()
                F.cross_entropy(outputs, y).backward()
                optimizer.step()
            history = torch.stack(acts, 1)
            redo.gen_and_test(history)
            if redo.steps_since_last_redo == 0:
                chosen = [torch.zeros(24, dtype=torch.bool) for _ in acts]
                for mask, units in zip(chosen, redo.units_to_replace(history.abs())[0], strict=True):
                    mask[units] = True
                mine = [resets.get(f"{2 * i}.weight", torch.zeros(24, dtype=torch.bool)) for i in range(2)]
                reset += sum(int(mask.sum()) for mask in chosen)
                other += sum(int((a != b).sum()) for a, b in zip(chosen, mine, strict=True))
                copy_fresh(theirs, ours, chosen)
            worst = max(worst, gap(theirs, ours))
    return {"activation": act, "threshold": threshold, "steps": STEPS, "reset": reset, "other units": other,
            "largest gap": worst}  # fmt: skip


if __name__ == "__main__":
    checkout(REPOSITORY)
    show([compared(act, threshold) for act in ("relu", "tanh") for threshold in (0.025, 0.3)])
