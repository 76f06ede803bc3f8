"""GraNet and gradual magnitude pruning beside CIFAR/sparselearning/core.py of github.com/VITA-Group/GraNet.

Equal networks get equal batches; one is masked by the authors' class on the CPU. The first comparison runs their code
as it is. The second replaces its method `pruning` by one with three changes: it keeps the weight at the threshold,
rounds the number of kept weights, and prunes at the last interval too. Masks are compared after every pruning.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import torch
from beside import checkout, gap, show
from torch import Tensor, nn
from torch.nn import functional as F

import homeostat
from homeostat.treatments import GraNet

REPOSITORY = "github.com/VITA-Group/GraNet"
STEPS, EVERY, END = 600, 20, 400


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 5))


def batch(step: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(step)
    x = torch.randn(32, 20, generator=g)
    return x, (x[:, :4].sum(1).abs() * 1.2).long().clamp(max=4)


def masking(model: nn.Module, optimizer: torch.optim.Optimizer, regrow: float, sparsity: float, rounded: bool) -> Any:
    """The authors' class, dense at the start."""
    from sparselearning.core import CosineDecay, Masking

    class Rounded(Masking):
        def pruning(self, step: int) -> None:
            done = min(step / END, 1.0)
            weights = [w for n, w in model.named_parameters() if n in self.masks]
            every = torch.cat([w.abs().flatten() for w in weights])
            kept = round(len(every) * (1 - sparsity * (1 - (1 - done) ** 3)))
            least = torch.topk(every, kept).values[-1]
            for name, weight in model.named_parameters():
                if name in self.masks:
                    self.masks[name] = ((weight.abs() >= least) & (weight != 0)).to(weight.dtype)
            self.apply_mask()

    args = SimpleNamespace(
        sparse_init="ERK", fix=False, update_frequency=EVERY, method="GraNet" if regrow else "GMP", multiplier=1,
        init_density=1.0, final_density=1 - sparsity, init_prune_epoch=0, final_prune_epoch=END,
    )  # fmt: skip
    kind = Rounded if rounded else Masking
    decay = CosineDecay(regrow, STEPS)
    made = kind(
        optimizer, prune_rate=regrow, prune_rate_decay=decay, growth_mode="gradient", args=args, train_loader=[0]
    )
    made.modules = [model]
    made.masks = {name: torch.ones_like(w) for name, w in model.named_parameters() if w.ndim > 1}
    return made


def compared(name: str, adam: bool, regrow: float, sparsity: float, rounded: bool) -> dict[str, Any]:
    """Train both for all steps."""
    models = [network(), network()]
    optimizers = [
        torch.optim.Adam(m.parameters(), lr=3e-3)
        if adam
        else torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
        for m in models
    ]
    theirs = masking(models[0], optimizers[0], regrow, sparsity, rounded)
    treatment = GraNet(sparsity=sparsity, regrow=regrow, every=EVERY, end=END, horizon=STEPS)
    unequal = prunings = 0
    worst, active = 0.0, (0, 0)
    with homeostat.attach(models[1], optimizers[1], treatments=[treatment], vitals=(), strict=True):
        for step in range(1, STEPS + 1):
            x, y = batch(step)
            for model, optimizer in zip(models, optimizers, strict=True):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
            with contextlib.redirect_stdout(io.StringIO()):
                theirs.step()
            optimizers[1].step()
            worst = max(worst, gap(*models))
            if step % EVERY == 0:
                pairs = [[w != 0 for w in m.parameters() if w.ndim > 1] for m in models]
                prunings += 1
                unequal += any(bool((a != b).any()) for a, b in zip(*pairs, strict=True))
                active = tuple(sum(int(mask.sum()) for mask in masks) for masks in pairs)
    return {"method": name, "optimizer": "Adam" if adam else "SGD, Nesterov", "sparsity": sparsity,
            "their rounding": not rounded, "prunings": prunings, "unequal": unequal, "active at the end": active,
            "largest gap": worst}  # fmt: skip


if __name__ == "__main__":
    folder = checkout(REPOSITORY)
    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
    sys.path.insert(0, str(folder / "CIFAR"))
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    cases = [("GraNet", 0.5, 0.9), ("GraNet", 0.5, 0.98), ("gradual pruning", 0.0, 0.9)]
    show(
        [
            compared(name, adam, regrow, sparsity, rounded)
            for adam in (False, True)
            for rounded in (False, True)
            for name, regrow, sparsity in cases
        ]
    )
