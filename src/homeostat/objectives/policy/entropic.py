"""EntroPIC: a PI controller weights confident tokens to keep the token entropy at a set point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob
from homeostat.core.objective import Batch, Field, Knobs, Losses, Objective, Stats, counted, log_probability
from homeostat.core.tensors import Reducers, broadcast_knob
from homeostat.objectives.policy.policy_gradient import (
    DUAL_CLIP,
    PPO,
    TOKENS,
    counting,
    diagnostics,
    dual_clipped,
    per_token,
    surrogate,
)

_CODE = "the authors' released code (core_algos.py)"


@dataclass(frozen=True, kw_only=True)
class Entropic(Objective):
    """The clipped policy gradient plus alpha * mean over confident tokens of (-r |A|). Knob `alpha` changes entropy.

        L = mean over all tokens of clipped(r, A)  +  alpha * mean over tokens with pi > threshold of (-r |A|)

    alpha > 0 makes confident tokens more confident (entropy falls), alpha < 0 less. If all tokens were confident,
    tokens with positive advantage would have weight 1 + alpha and the others 1 - alpha. A controller sets alpha
    within [-1, 1] from the error e = mean token entropy - set point, as kp * e + ki * (sum of e), with kp = 1 and
    ki = 0.01 in the paper:

        PI(set_point=0.1, kp=1.0, ki=0.01, low=-1.0, high=1.0, when_high="raise")

    starting at alpha 0 and previous error 0. This PI has anti-windup (back-calculation): it leaves a limit as soon as
    the error changes sign. The released code limits only alpha, so its sum winds up. If kp * e alone exceeds the limit,
    as with a large gain or first error, the two laws differ. At alpha = 0 this is `clipped-policy-gradient`.

    Source: Yang et al. (2025); the threshold, the two separate means and the unclipped r in the second mean are from
    the authors' code. Here both means are over the whole batch, there over a micro-batch.

    >>> token = lambda *x: torch.tensor([x])
    >>> batch = {"mask": token(True), "logp": token(-0.01), "old_logp": token(-0.01), "advantage": token(-2.0)}
    >>> Entropic(alpha=0.5)(batch).values.tolist()
    [[1.0]]
    """

    cite = (
        Cite.of("entropic"),
        PPO,
        DUAL_CLIP,
    )
    fields: ClassVar[Mapping[str, Field]] = TOKENS
    reducers: ClassVar[Reducers] = {"tokens": "sum", "confident": "sum"}
    alpha: float = knob(
        0.0, low=-1.0, high=1.0, neutral=0.0, unit="", source="arXiv:2511.15248; turned by a controller"
    )
    threshold: float = knob(0.95, high=1.0, unit="probability", source=_CODE)
    low: float = knob(0.2, high=1.0, unit="of the ratio", source="arXiv:1707.06347, section 6.1")
    high: float = knob(0.2, unit="of the ratio", source="arXiv:1707.06347, section 6.1")
    dual: float = knob(3.0, low=1.0, unit="of the ratio", source=_CODE)

    def measure(self, batch: Batch, knobs: Knobs) -> Stats:
        tokens = counting(batch, counted(batch["logp"], batch["mask"]))
        confident = _confident(batch, knobs["threshold"]).sum((-2, -1)).to(tokens["tokens"].dtype)
        return {**tokens, "confident": confident}

    def losses(self, batch: Batch, stats: Stats, knobs: Knobs) -> Losses:
        parts = surrogate(batch, knobs["low"], knobs["high"])
        confident = _confident(batch, knobs["threshold"])
        pressed = counted(-parts.ratio * parts.advantage.abs(), confident)
        pressed = pressed / broadcast_knob(stats["confident"].clamp(min=1), pressed)
        values = (
            per_token(dual_clipped(parts, knobs["dual"]), batch, stats)
            + broadcast_knob(knobs["alpha"], pressed) * pressed
        )
        share = per_token(confident.to(values.dtype), batch, stats)
        return Losses(values, {**diagnostics(parts, batch, stats), "confident fraction": share})


def _confident(batch: Batch, threshold: Tensor) -> Tensor:
    """Unmasked tokens with probability above the threshold, bool [*R, N, T]."""
    logp = log_probability(batch["logp"], batch["mask"]).detach()
    return batch["mask"] & (logp > broadcast_knob(torch.log(threshold), logp))
