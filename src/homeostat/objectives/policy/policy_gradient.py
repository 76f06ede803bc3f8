"""The clipped policy gradient over tokens, on which other objectives build, and the entropy bonus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob
from homeostat.core.objective import Batch, Field, Knobs, Losses, Objective, Stats, counted, log_probability
from homeostat.core.tensors import Reducers, broadcast_knob

PPO = Cite.of("ppo")
DUAL_CLIP = Cite(
    "Ye et al.", 2020, "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning", "1912.09729"
)
LARGEST_LOG_RATIO = 20.0
"""|log pi - log pi_old| is limited to this, without gradient: exp(20) is 5e8."""

TOKENS: Mapping[str, Field] = {
    "mask": Field("token", "mask"),
    "logp": Field("token", "log-probability", "mask", gradient=True),
    "old_logp": Field("token", "log-probability", "mask"),
    "advantage": Field("token", "real", "mask"),
}
"""Fields that a policy-gradient objective reads: log-probability of each sampled token under the policy and under the
sampling policy, and its advantage, all [*R, N, T]."""


@dataclass(frozen=True)
class Surrogate:
    """The parts of the clipped surrogate, per token [*R, N, T].

    Args:
        log_ratio: log pi - log pi_old, limited to +-20; 0 where masked out.
        ratio: its exponential.
        plain: -ratio * A.
        clipped: max(plain, -clip(ratio, 1 - low, 1 + high) * A).
        outside: whether clipping removed the gradient.
        advantage: A, 0 where masked out.
    """

    log_ratio: Tensor
    ratio: Tensor
    plain: Tensor
    clipped: Tensor
    outside: Tensor
    advantage: Tensor


def surrogate(batch: Batch, low: Tensor, high: Tensor) -> Surrogate:
    """The clipped surrogate of Schulman et al. (2017), eq. 7, per token and as a loss.

    Args:
        batch: the fields `TOKENS`.
        low, high: largest distance of the ratio below and above 1, [*R].
    """
    mask = batch["mask"]
    logp, old = log_probability(batch["logp"], mask), log_probability(batch["old_logp"], mask)
    log_ratio = (logp - old).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    advantage, ratio = counted(batch["advantage"], mask).to(logp.dtype), log_ratio.exp()
    plain = -advantage * ratio
    bounded = -advantage * torch.minimum(
        torch.maximum(ratio, broadcast_knob(1 - low, ratio)), broadcast_knob(1 + high, ratio)
    )
    return Surrogate(log_ratio, ratio, plain, torch.maximum(plain, bounded), bounded > plain, advantage)


def counting(batch: Batch, like: Tensor) -> Stats:
    """The number of unmasked tokens, [*R]; `like` gives the dtype."""
    return {"tokens": batch["mask"].sum((-2, -1)).to(like.dtype)}


def per_token(values: Tensor, batch: Batch, stats: Stats) -> Tensor:
    """Shares of the mean over all tokens of the whole batch: values / tokens, 0 where masked out."""
    return counted(values, batch["mask"]) / broadcast_knob(stats["tokens"].clamp(min=1), values)


def diagnostics(parts: Surrogate, batch: Batch, stats: Stats) -> dict[str, Tensor]:
    """Diagnostics of every policy-gradient objective: share of clipped tokens, and E[log pi_old - log pi]."""
    found = {"clip fraction": parts.outside.to(parts.ratio.dtype), "approximate KL": -parts.log_ratio}
    return {name: per_token(value, batch, stats).detach() for name, value in found.items()}


@dataclass(frozen=True, kw_only=True)
class ClippedPolicyGradient(Objective):
    """The clipped surrogate of PPO, averaged over all tokens of the batch, with dual clipping.

        L = mean over tokens of max(-r A, -clip(r, 1 - low, 1 + high) A),   r = exp(log pi - log pi_old)

    and, where A < 0, at most -dual A. With group advantages it is GRPO without its KL term. On-policy (pi = pi_old) its
    gradient is the plain policy gradient. "Clip-higher" is high > low.

    >>> token = lambda *x: torch.tensor([x])
    >>> batch = {"mask": token(True), "logp": token(-1.0), "old_logp": token(-1.0), "advantage": token(2.0)}
    >>> ClippedPolicyGradient()(batch).values.tolist()
    [[-2.0]]
    """

    cite = (
        PPO,
        Cite("Shao et al.", 2024, "DeepSeekMath: Pushing the Limits of Mathematical Reasoning", "2402.03300"),
        DUAL_CLIP,
    )
    fields: ClassVar[Mapping[str, Field]] = TOKENS
    reducers: ClassVar[Reducers] = {"tokens": "sum"}
    low: float = knob(0.2, high=1.0, unit="of the ratio", source="arXiv:1707.06347, section 6.1")
    high: float = knob(0.2, unit="of the ratio", source="arXiv:1707.06347, section 6.1")
    dual: float = knob(3.0, low=1.0, unit="of the ratio", source="arXiv:1912.09729, section 4.3")

    def measure(self, batch: Batch, knobs: Knobs) -> Stats:
        return counting(batch, counted(batch["logp"], batch["mask"]))

    def losses(self, batch: Batch, stats: Stats, knobs: Knobs) -> Losses:
        parts = surrogate(batch, knobs["low"], knobs["high"])
        return Losses(per_token(dual_clipped(parts, knobs["dual"]), batch, stats), diagnostics(parts, batch, stats))


def dual_clipped(parts: Surrogate, dual: Tensor) -> Tensor:
    """The clipped surrogate, at most -dual * A where the advantage is negative, which bounds it for large ratios."""
    limit = torch.minimum(parts.clipped, -parts.advantage * broadcast_knob(dual, parts.ratio))
    return torch.where(parts.advantage < 0, limit, parts.clipped)


@dataclass(frozen=True, kw_only=True)
class EntropyBonus(Objective):
    """Minus `weight` times the mean token entropy. Added to another objective, it keeps entropy high.

    >>> batch = {"mask": torch.tensor([[True, True]]), "entropy": torch.tensor([[1.0, 3.0]])}
    >>> EntropyBonus(weight=0.5)(batch).values.sum().item()
    -1.0
    """

    cite = Cite("Mnih et al.", 2016, "Asynchronous Methods for Deep Reinforcement Learning", "1602.01783")
    fields: ClassVar[Mapping[str, Field]] = {
        "mask": Field("token", "mask"),
        "entropy": Field("token", "nonnegative", "mask", gradient=True),
    }
    reducers: ClassVar[Reducers] = {"tokens": "sum"}
    weight: float = knob(0.01, neutral=0.0, unit="reward per nat", source="arXiv:1602.01783, section 5.1")

    def measure(self, batch: Batch, knobs: Knobs) -> Stats:
        return counting(batch, counted(batch["entropy"], batch["mask"]))

    def losses(self, batch: Batch, stats: Stats, knobs: Knobs) -> Losses:
        entropy = per_token(batch["entropy"], batch, stats)
        return Losses(-broadcast_knob(knobs["weight"], entropy) * entropy, {"entropy": entropy.detach()})
