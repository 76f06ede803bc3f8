"""Policy losses beside verl/trainer/ppo/core_algos.py of github.com/PRIME-RL/Entropy-Mechanism-of-RL.

Loss and gradient of random padded batches, in one piece, because the released code takes means and ranks over a
micro-batch. Only the functions of that file are run, without its imports. Clip-Cov draws tokens with torch.randperm;
the same draw is given to ours as noise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from beside import checkout, functions, show
from torch import Tensor

from homeostat.objectives import ClipCov, ClippedPolicyGradient, KLCov, group_advantage, token_entropy

REPOSITORY = "github.com/PRIME-RL/Entropy-Mechanism-of-RL"
BATCHES, ITEMS, TOKENS = 200, 40, 12


def batch(seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    logp = -torch.rand(ITEMS, TOKENS, generator=g) * 4
    lengths = torch.randint(1, TOKENS + 1, (ITEMS, 1), generator=g)
    return {
        "mask": torch.arange(TOKENS) < lengths,
        "logp": logp,
        "old_logp": (logp + 0.4 * torch.randn(ITEMS, TOKENS, generator=g)).clamp(max=0.0),
        "advantage": torch.randn(ITEMS, 1, generator=g).expand(ITEMS, TOKENS).contiguous(),
    }


def both(ours: Callable[..., Any], theirs: Callable[..., Any], given: dict[str, Tensor]) -> tuple[float, float]:
    """Largest differences of the loss and of its gradient."""
    found = []
    for loss in (ours, theirs):
        logp = given["logp"].clone().requires_grad_()
        value = loss({**given, "logp": logp})
        found.append((value.detach(), torch.autograd.grad(value, logp)[0]))
    (a, da), (b, db) = found
    return float((a - b).abs()), float((da - db).abs().max())


def noise_of(given: dict[str, Tensor], o: ClipCov, seed: int) -> Tensor:
    """Noise whose order among the candidates is that of the permutation that the authors' code draws."""
    mask, logp, a = given["mask"], given["logp"], given["advantage"]
    ratio = torch.exp(logp - given["old_logp"])
    clipped = (-a * ratio.clamp(1 - o.low, 1 + o.high) > -a * ratio) & mask
    cov = (a - a[mask].mean()) * (logp - logp[mask].mean())
    candidates = torch.nonzero((cov < o.upper) & (cov > o.lower) & mask & ~clipped)
    torch.manual_seed(seed)
    places = candidates[torch.randperm(len(candidates))]
    noise = torch.full_like(logp, 0.999)
    noise[places[:, 0], places[:, 1]] = torch.arange(len(places)) / (len(places) + 1)
    return noise


def compared(name: str, made: Callable[[dict[str, Tensor], int], tuple[float, float]]) -> dict[str, Any]:
    gaps = [made(batch(seed), seed) for seed in range(BATCHES)]
    loss, gradient = (max(found) for found in zip(*gaps, strict=True))
    return {"objective": name, "batches": BATCHES, "loss": loss, "gradient": gradient}


def main() -> None:
    folder = checkout(REPOSITORY)
    helpers = functions(
        folder / "verl/utils/torch_functional.py", ["masked_mean", "entropy_from_logits"], {"torch": torch}
    )
    # their masked mean adds 1e-8 to the number of tokens; without it, only rounding is left
    exact = {**helpers, "masked_mean": lambda values, mask, axis=None: (values * mask).sum(axis) / mask.sum(axis)}
    names = ["compute_policy_loss", "compute_policy_loss_kl_cov", "compute_policy_loss_clip_cov", "agg_loss",
             "compute_grpo_outcome_advantage"]  # fmt: skip
    known = {"torch": torch, "np": np, "defaultdict": defaultdict, "verl_F": SimpleNamespace(**exact)}
    theirs = functions(folder / "verl/trainer/ppo/core_algos.py", names, known)

    def arguments(b: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return b["old_logp"], b["logp"], b["advantage"], b["mask"]

    def plain(b: dict[str, Tensor], seed: int) -> tuple[float, float]:
        ours = ClippedPolicyGradient(low=0.2, high=0.28, dual=1e9)
        loss = theirs["compute_policy_loss"]
        return both(lambda b: ours(b).values.sum(),
                    lambda b: loss(*arguments(b), cliprange_low=0.2, cliprange_high=0.28)[0], b)  # fmt: skip

    def kl_cov(b: dict[str, Tensor], seed: int) -> tuple[float, float]:
        loss = theirs["compute_policy_loss_kl_cov"]
        return both(lambda b: KLCov(fraction=0.1, beta=0.7)(b).values.sum(),
                    lambda b: loss(*arguments(b), k_percent=10.0, ppo_kl_coef=0.7)[0], b)  # fmt: skip

    def clip_cov(b: dict[str, Tensor], seed: int) -> tuple[float, float]:
        ours = ClipCov(fraction=0.05, lower=0.1, upper=3.0, low=0.2, high=0.28)
        noise = noise_of(b, ours, seed)

        def released(b: dict[str, Tensor]) -> Tensor:
            torch.manual_seed(seed)
            return theirs["compute_policy_loss_clip_cov"](
                *arguments(b), cliprange_low=0.2, cliprange_high=0.28, clip_ratio=0.05, clip_cov_lb=0.1, clip_cov_ub=3.0
            )[0]

        return both(lambda b: ours({**b, "noise": noise}).values.sum(), released, b)

    def advantage(b: dict[str, Tensor], seed: int) -> tuple[float, float]:
        rewards = torch.rand(5, 8, generator=torch.Generator().manual_seed(seed)).round()
        tokens = torch.zeros(40, TOKENS).index_fill(1, torch.tensor([0]), 1.0) * rewards.reshape(-1, 1)
        one = group_advantage(rewards).reshape(-1, 1) * b["mask"]
        other = theirs["compute_grpo_outcome_advantage"](tokens, b["mask"], np.arange(40) // 8)[0]
        return float((one - other).abs().max()), float("nan")

    def entropy(b: dict[str, Tensor], seed: int) -> tuple[float, float]:
        logits = 3 * torch.randn(4, 6, 30, generator=torch.Generator().manual_seed(seed))
        return float((token_entropy(logits) - helpers["entropy_from_logits"](logits)).abs().max()), float("nan")

    cases = {"clipped policy gradient": plain, "KL-Cov, 10%": kl_cov, "Clip-Cov, 5%": clip_cov,
             "group advantage": advantage, "token entropy": entropy}  # fmt: skip
    show([compared(name, made) for name, made in cases.items()])
    tie = {**batch(0), "advantage": torch.zeros(ITEMS, TOKENS)}
    released = theirs["compute_policy_loss_kl_cov"](*arguments(tie), k_percent=10.0)[0]
    ours = KLCov(fraction=0.1)(tie).values.sum()
    print(f"KL-Cov, all covariances equal: loss {float(released):.3g} there, {float(ours):.3g} here")


if __name__ == "__main__":
    main()
