"""Clip-Cov and KL-Cov: drop or penalise the few tokens that reduce entropy most.

The tokens are selected over the whole batch, so a split into micro-batches changes nothing. The threshold lies halfway
between the last selected token and the first other one, so rounding in the second forward pass does not change the
selection. Tokens that tie with the first one that is not selected are not selected either, because a choice among
them would depend on their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob
from homeostat.core.objective import Batch, Field, Knobs, Losses, Objective, Stats, counted, log_probability
from homeostat.core.tensors import Reducers, broadcast_knob
from homeostat.objectives.policy.policy_gradient import TOKENS, Surrogate, counting, diagnostics, per_token, surrogate

CITE = Cite.of("entropy-mechanism")
_RECIPE = "the authors' released recipe for 7B"


@dataclass(frozen=True, kw_only=True)
class ClipCov(Objective):
    """The clipped surrogate without the gradient of a few random tokens of high covariance.

        cov_i = (log pi_i - mean log pi) * (A_i - mean A)
        candidates: lower < cov_i < upper, and not already clipped
        dropped: max(1, floor(fraction * tokens)) of the candidates, drawn at random; none with `fraction` 0

    Means are over all tokens of the batch, where the released code takes those of each micro-batch.

    The field `noise` (uniform, one number per token, for example from `Draw.uniform`) decides the draw: the smallest
    numbers are dropped. So the draw does not depend on the order or the split of the tokens.

    >>> noise = torch.rand(1, 4, generator=torch.Generator().manual_seed(0))
    >>> logp, old = torch.tensor([[-0.1, -0.1, -4.0, -4.0]]), torch.tensor([[-0.1, -0.1, -4.0, -4.0]])
    >>> advantage, mask = torch.tensor([[1.0, 1.0, -1.0, -1.0]]), torch.ones(1, 4, dtype=torch.bool)
    >>> batch = {"mask": mask, "logp": logp, "old_logp": old, "advantage": advantage, "noise": noise}
    >>> sorted(ClipCov()(batch).values[0].tolist())
    [-0.25, -0.25, 0.0, 0.25]
    """

    cite = CITE
    fields: ClassVar[Mapping[str, Field]] = {**TOKENS, "noise": Field("token", "uniform", "mask")}
    reducers: ClassVar[Reducers] = {
        "tokens": "sum",
        **dict.fromkeys(("logp", "advantage", "counts", "free", "noise"), "cat"),
    }
    fraction: float = knob(2e-4, high=1.0, unit="fraction of tokens", source=_RECIPE)
    lower: float = knob(1.0, low=-1e30, unit="nats * advantage", source=_RECIPE)
    upper: float = knob(5.0, low=-1e30, unit="nats * advantage", source=_RECIPE)
    low: float = knob(1.0, high=1.0, unit="of the ratio", source=_RECIPE)
    high: float = knob(1.0, unit="of the ratio", source=_RECIPE)

    def measure(self, batch: Batch, knobs: Knobs) -> Stats:
        parts = surrogate(batch, knobs["low"], knobs["high"])
        noise = counted(batch["noise"], batch["mask"]).to(parts.ratio.dtype)
        return {**_listed(batch, parts), "free": _flat(~parts.outside).to(noise.dtype), "noise": _flat(noise)}

    def finish(self, partials: Stats, knobs: Knobs) -> Stats:
        stats, cov = _centred(partials)
        eligible = _between(cov, knobs) & (partials["free"] > 0) & (partials["counts"] > 0)
        number = _number(knobs["fraction"], stats["tokens"]).minimum(eligible.sum(-1))
        return {**stats, "cut": cut(partials["noise"].masked_fill(~eligible, torch.inf), number)}

    def losses(self, batch: Batch, stats: Stats, knobs: Knobs) -> Losses:
        parts = surrogate(batch, knobs["low"], knobs["high"])
        cov = _covariance(batch, parts, stats)
        drawn = counted(batch["noise"], batch["mask"]).to(cov.dtype) <= broadcast_knob(stats["cut"], cov)
        dropped = drawn & _between(cov, knobs) & ~parts.outside & batch["mask"]
        values = per_token(counted(parts.clipped, ~dropped), batch, stats)
        return Losses(values, _told(parts, cov, dropped, batch, stats))


@dataclass(frozen=True, kw_only=True)
class KLCov(Objective):
    """The policy gradient with a penalty beta * |log pi_old - log pi| on the tokens of highest covariance.

        cov_i = (log pi_i - mean log pi) * (A_i - mean A)
        L = mean over tokens of  -r A + [cov_i among the highest] * beta * |log pi_old - log pi|

    with k = max(1, floor(fraction * tokens)) penalised tokens, none with `fraction` 0. If the token of rank k ties with
    that of rank k + 1 (up to rounding), all tokens of this value are left out, so fewer than k are penalised; none if
    all covariances are equal, as in a batch whose answers are all right. The released code takes exactly k then, in an
    arbitrary order. Means and ranks are over all tokens of the batch, where the released code takes those of each
    micro-batch. The surrogate is not clipped. In the first update after
    sampling pi = pi_old, so the penalty has no gradient; it acts from the second update on the same rollouts.

    >>> logp, old = torch.tensor([[-0.5, -0.1, -4.0, -4.0]]), torch.tensor([[-0.5, -0.6, -4.0, -4.0]])
    >>> advantage, mask = torch.tensor([[0.0, 0.0, 0.0, -1e-9]]), torch.ones(1, 4, dtype=torch.bool)
    >>> batch = {"mask": mask, "logp": logp, "old_logp": old, "advantage": advantage}
    >>> KLCov(fraction=0.5)(batch).values[0].round(decimals=6).tolist()
    [0.0, 0.125, 0.0, 0.0]
    """

    name = "kl-cov"
    cite = CITE
    fields: ClassVar[Mapping[str, Field]] = TOKENS
    reducers: ClassVar[Reducers] = {
        "tokens": "sum",
        **dict.fromkeys(("logp", "advantage", "counts"), "cat"),
    }
    fraction: float = knob(2e-3, high=1.0, unit="fraction of tokens", source=_RECIPE)
    beta: float = knob(1.0, neutral=0.0, unit="advantage per nat", source=_RECIPE)

    def measure(self, batch: Batch, knobs: Knobs) -> Stats:
        return _listed(batch, _unclipped(batch))

    def finish(self, partials: Stats, knobs: Knobs) -> Stats:
        stats, cov = _centred(partials)
        keys, number = _ranked(cov, partials["counts"] > 0), _number(knobs["fraction"], stats["tokens"])
        return {**stats, "cut": cut(keys, number, _rounding(partials))}

    def losses(self, batch: Batch, stats: Stats, knobs: Knobs) -> Losses:
        parts = _unclipped(batch)
        cov = _covariance(batch, parts, stats)
        held = (-cov <= broadcast_knob(stats["cut"], cov)) & batch["mask"]
        penalty = broadcast_knob(knobs["beta"], cov) * counted(parts.log_ratio.abs(), held)
        return Losses(per_token(parts.plain + penalty, batch, stats), _told(parts, cov, held, batch, stats))


def cut(keys: Tensor, number: Tensor, tied: Tensor | float = 0.0) -> Tensor:
    """Threshold below which the `number` smallest keys lie, halfway to the next key.

    If it would separate keys that tie, it lies below all of them, and fewer keys lie below it.

    Args:
        keys: [*R, M]; inf for tokens that cannot be selected.
        number: number of keys below it, [*R]; 0 gives -inf.
        tied: neighbours that differ by at most this tie, [*R].

    >>> cut(torch.tensor([3.0, 1.0, 2.0]), torch.tensor(2)).item()
    2.5
    >>> cut(torch.tensor([2.0, 1.0, 2.0]), torch.tensor(2)).item()
    1.5
    """
    edge = torch.full((*keys.shape[:-1], 1), torch.inf, dtype=keys.dtype, device=keys.device)
    ranked = torch.cat([-edge, keys.sort(-1).values, edge], -1)
    below, above = ranked[..., :-1], ranked[..., 1:]
    gap = torch.as_tensor(tied, dtype=keys.dtype, device=keys.device)[..., None]
    places = torch.arange(below.shape[-1], device=keys.device)
    # place p has p keys below it; before the first and after the last key there is always a gap
    free = (above - below > gap) & (places <= number.to(keys.device)[..., None])
    best = torch.where(free, places, 0).amax(-1, keepdim=True)
    return torch.where(best > 0, ((below + above) / 2).gather(-1, best), -torch.inf)[..., 0]


def _number(fraction: Tensor, tokens: Tensor) -> Tensor:
    """max(1, floor(fraction * tokens)), at most `tokens`; 0 if the fraction is 0."""
    fraction = fraction.to(tokens.device)
    wanted = torch.floor(fraction * tokens.to(torch.float64)).clamp(min=1)
    return torch.where(fraction > 0, wanted.minimum(tokens.to(torch.float64)), 0.0)


def _rounding(partials: Stats) -> Tensor:
    """The size of rounding errors in covariances: [*R]."""
    logp, advantage = partials["logp"], partials["advantage"]
    if not logp.shape[-1]:
        return logp.sum(-1)
    return 16 * torch.finfo(logp.dtype).eps * logp.abs().amax(-1) * advantage.abs().amax(-1)


def _unclipped(batch: Batch) -> Surrogate:
    free = torch.tensor(torch.inf)
    return surrogate(batch, free, free)


def _flat(values: Tensor) -> Tensor:
    return values.flatten(-2)


def _listed(batch: Batch, parts: Surrogate) -> Stats:
    """The number of tokens, and per token what selects it: log-probability, advantage, mask."""
    logp = log_probability(batch["logp"], batch["mask"])
    lists = {"logp": logp, "advantage": parts.advantage, "counts": batch["mask"].to(logp.dtype)}
    return {**counting(batch, logp), **{name: _flat(value) for name, value in lists.items()}}


def _centred(partials: Stats) -> tuple[Stats, Tensor]:
    """Number of tokens, the two means over the whole batch, and the covariance of every listed token, [*R, M]."""
    tokens = partials["tokens"].clamp(min=1)
    means = {f"mean {name}": partials[name].sum(-1) / tokens for name in ("logp", "advantage")}
    stats = {"tokens": partials["tokens"], **means}
    return stats, _product(partials["logp"], partials["advantage"], stats)


def _product(logp: Tensor, advantage: Tensor, stats: Stats) -> Tensor:
    return (logp - broadcast_knob(stats["mean logp"], logp)) * (
        advantage - broadcast_knob(stats["mean advantage"], advantage)
    )


def _covariance(batch: Batch, parts: Surrogate, stats: Stats) -> Tensor:
    """Covariance of every token of a micro-batch about the means of the whole batch, without gradient."""
    return _product(log_probability(batch["logp"], batch["mask"]).detach(), parts.advantage, stats)


def _between(cov: Tensor, knobs: Knobs) -> Tensor:
    return (cov > broadcast_knob(knobs["lower"], cov)) & (cov < broadcast_knob(knobs["upper"], cov))


def _ranked(cov: Tensor, counts: Tensor) -> Tensor:
    return (-cov).masked_fill(~counts, torch.inf)


def _told(parts: Surrogate, cov: Tensor, chosen: Tensor, batch: Batch, stats: Stats) -> dict[str, Tensor]:
    found = {"covariance": cov, "chosen fraction": chosen.to(cov.dtype)}
    return {**diagnostics(parts, batch, stats), **{name: per_token(v, batch, stats) for name, v in found.items()}}
