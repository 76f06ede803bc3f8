"""DPO-Shift beside `dpo_loss` in scripts/dposhift_trainer.py of github.com/Meaquadddd/DPO-Shift.

Loss and gradient of random pairs, with fixed f and with the two linear schedules. Only that method is run.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from beside import checkout, functions, show
from torch import Tensor
from torch.nn import functional as F

from homeostat.objectives import DPOShift, shift_schedule

REPOSITORY = "github.com/Meaquadddd/DPO-Shift"
PAIRS, TOKENS, STEPS, LOWEST = 30, 8, 50, 0.75


def batch(seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    for side in ("chosen", "rejected"):
        made[f"{side}_mask"] = torch.arange(TOKENS) < torch.randint(1, TOKENS + 1, (PAIRS, 1), generator=g)
        for who in ("logp", "reference"):
            made[f"{side}_{who}"] = -3 * torch.rand(PAIRS, TOKENS, generator=g)
    return made


def trainer(kind: str, step: int, shift: float, beta: float) -> Any:
    """What the method reads of its trainer."""
    return SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu"), reference_free=False, dpo_lambda=shift, beta=beta,
        dpo_lambda_min=LOWEST, dpo_lambda_max=1.0, dpo_lambda_strategy=kind, max_steps=STEPS,
        lr_scheduler=SimpleNamespace(_step_count=step + 1), f_divergence_type="reverse_kl", f_divergence_params=None,
        label_smoothing=0.0, loss_type="sigmoid",
    )  # fmt: skip


def compared(loss: Any, schedule: str, shift: float, beta: float) -> dict[str, Any]:
    """Over all steps, one batch each."""
    kind = {"fixed": "fixed", "increase": "increase_linear", "decrease": "decrease_linear"}[schedule]
    worst = [0.0, 0.0]
    for step in range(STEPS):
        given = batch(step)
        f = shift if schedule == "fixed" else float(shift_schedule(torch.tensor(step / STEPS), LOWEST, 1.0, schedule))
        found = []
        for ours in (True, False):
            live = {n: v.clone().requires_grad_(n.endswith("logp")) for n, v in given.items()}
            if ours:
                value = DPOShift(shift=f, beta=beta)(live).values.sum()
            else:
                sums = [(live[f"{s}_{w}"] * live[f"{s}_mask"]).sum(1) for w in ("logp", "reference")
                        for s in ("chosen", "rejected")]  # fmt: skip
                value = loss(trainer(kind, step, shift, beta), *sums)[0].mean()
            wanted = [live["chosen_logp"], live["rejected_logp"]]
            found.append((float(value.detach()), torch.cat(torch.autograd.grad(value, wanted))))
        worst = [
            max(worst[0], abs(found[0][0] - found[1][0])),
            max(worst[1], float((found[0][1] - found[1][1]).abs().max())),
        ]
    return {"schedule": schedule, "f": shift if schedule == "fixed" else f"{LOWEST:g}, 1", "beta": beta,
            "batches": STEPS, "loss": worst[0], "gradient": worst[1]}  # fmt: skip


if __name__ == "__main__":
    folder = checkout(REPOSITORY)
    kinds = SimpleNamespace(ALPHA_DIVERGENCE=SimpleNamespace(value="alpha"), JS_DIVERGENCE=SimpleNamespace(value="js"))
    known = {"torch": torch, "F": F, "Tuple": tuple, "FDivergenceType": kinds}
    loss = functions(folder / "scripts/dposhift_trainer.py", ["dpo_loss"], known)["dpo_loss"]
    cases = [
        ("fixed", 1.0, 0.1),
        ("fixed", 0.95, 0.01),
        ("fixed", 0.5, 1.0),
        ("increase", 0.0, 0.1),
        ("decrease", 0.0, 0.1),
    ]
    show([compared(loss, *case) for case in cases])
