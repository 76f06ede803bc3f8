"""DPO-Shift: direct preference optimisation with a scaled reward of the rejected answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from homeostat.core.component import Cite, knob
from homeostat.core.errors import BadInput
from homeostat.core.objective import Batch, Field, Knobs, Losses, Objective, Stats, log_probability
from homeostat.core.tensors import Reducers, broadcast_knob


@dataclass(frozen=True, kw_only=True)
class DPOShift(Objective):
    """-log sigmoid(beta * log-ratio of the chosen answer - f * beta * log-ratio of the rejected one), mean over pairs.

        L = mean over pairs of -log sigmoid( beta * c - f * beta * r )
        c = sum over tokens of log pi(y_w) - log pi_ref(y_w),   r = the same of y_l

    f (`shift`) = 1 is DPO. A smaller f lowers the rejected answer less, and so also what it shares with the chosen one;
    the reward margin becomes smaller. `shift_schedule` computes the paper's linear schedules.

    Diagnostics: mean log-probability of the chosen and the rejected answers, mean margin beta * (c - r), accuracy
    (share of pairs with c > r), and `displacement`, the mean of -c in nats.

    Source: Yang et al. (2025), eq. 3; the authors' `dposhift_trainer.py` scales the rejected reward in the same way.
    A pair without tokens is ignored.

    >>> log = lambda *x: torch.tensor([x])
    >>> batch = {"chosen_mask": log(True), "rejected_mask": log(True), "chosen_logp": log(-1.0),
    ...          "rejected_logp": log(-2.0), "chosen_reference": log(-1.0), "rejected_reference": log(-2.0)}
    >>> round(DPOShift()(batch).values.item(), 6)
    0.693147
    """

    name = "dpo-shift"
    cite = (
        Cite.of("dpo-shift"),
        Cite(
            "Rafailov et al.",
            2023,
            "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
            "2305.18290",
        ),
    )
    fields: ClassVar[Mapping[str, Field]] = {
        f"{side}_{name}": spec
        for side in ("chosen", "rejected")
        for name, spec in {
            "mask": Field("token", "mask"),
            "logp": Field("token", "log-probability", f"{side}_mask", gradient=True),
            "reference": Field("token", "log-probability", f"{side}_mask"),
        }.items()
    }
    reducers: ClassVar[Reducers] = {"pairs": "sum"}
    shift: float = knob(
        0.95, high=1.0, neutral=1.0, unit="", source="arXiv:2502.07599; fixed value of the released models"
    )
    beta: float = knob(0.01, unit="1/nat", source="the authors' released recipes")

    def measure(self, batch: Batch, knobs: Knobs) -> Stats:
        return {"pairs": _present(batch).sum(-1).to(log_probability(batch["chosen_logp"], batch["chosen_mask"]).dtype)}

    def losses(self, batch: Batch, stats: Stats, knobs: Knobs) -> Losses:
        (chosen, rejected), present = (_sums(batch, side) for side in ("chosen", "rejected")), _present(batch)
        gain, lift = chosen[0] - chosen[1], rejected[0] - rejected[1]
        beta = broadcast_knob(knobs["beta"], gain)
        share = present.to(gain.dtype) / broadcast_knob(stats["pairs"].clamp(min=1), gain)
        values = -logsigmoid(beta * gain - broadcast_knob(knobs["shift"], gain) * beta * lift) * share
        found = {
            "chosen log-probability": chosen[0],
            "rejected log-probability": rejected[0],
            "margin": beta * (gain - lift),
            "accuracy": (gain > lift).to(gain.dtype),
            "displacement": -gain,
        }
        return Losses(values, {name: (value * share).detach() for name, value in found.items()})


def shift_schedule(progress: Tensor, low: float, high: float, kind: str = "fixed") -> Tensor:
    """f at a point of training: `high`, or linear from `low` to `high` or from `high` to `low`.

    Args:
        progress: completed share of the steps, 0 to 1.
        low, high: lambda_min and lambda_max.
        kind: "fixed", "increase" or "decrease".

    Raises:
        BadInput: `kind` is unknown.

    >>> shift_schedule(torch.tensor(0.25), 0.75, 1.0, "decrease").item()
    0.9375
    """
    ramps = {"fixed": torch.zeros_like(progress), "increase": 1 - progress, "decrease": progress}
    if kind not in ramps:
        raise BadInput(f"a shift schedule is one of {', '.join(ramps)}, got {kind!r}")
    return high - (high - low) * ramps[kind]


def _sums(batch: Batch, side: str) -> tuple[Tensor, Tensor]:
    """Log-probability of each answer under the policy and under the reference, [*R, N]."""
    mask = batch[f"{side}_mask"]
    return tuple(log_probability(batch[f"{side}_{who}"], mask).sum(-1) for who in ("logp", "reference"))  # type: ignore[return-value]


def _present(batch: Batch) -> Tensor:
    """Pairs with at least one token, bool [*R, N]."""
    return batch["chosen_mask"].any(-1) | batch["rejected_mask"].any(-1)
