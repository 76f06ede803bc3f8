"""A switch that acts once, when a vital has stopped changing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.controllers import laws
from homeostat.controllers.controllers import LimitedController
from homeostat.core.component import Cite, knob
from homeostat.core.controller import gains
from homeostat.core.errors import BadSetting
from homeostat.core.treatment import State


def one_way(error: Tensor, state: State, gains: laws.Gains) -> tuple[Tensor, State]:
    """Keep the knob until two successive checks agree, then move it to `target` for good.

        check j, after every `period` readings:   m_j = mean of the last `window` readings
        switches when |m_j - m_(j-1)| <= tolerance   (never at the first check)

    Args:
        error: [*R], the reading; only its differences matter.
        state: of `laws.start`, with "call", "total" and "thrown" at 0 and "before" at NaN.
        gains: low, high, slew, tolerance, window, period, target.

    Source: Ma et al. (2023), arXiv:2310.07418, and the authors' code.
    """
    call = state["call"] + 1
    total = state["total"] + torch.where(call > gains["period"] - gains["window"], error, 0.0)
    check, mean = call >= gains["period"], total / gains["window"]
    settled = check & ((mean - state["before"]).abs() <= gains["tolerance"])
    thrown = torch.maximum(state["thrown"], settled.to(state["thrown"].dtype))
    seen = {
        "call": torch.where(check, 0.0, call),
        "total": torch.where(check, 0.0, total),
        "before": torch.where(check, mean, state["before"]),
        "thrown": thrown,
    }
    wanted = torch.where(thrown > 0, gains["target"], state["value"])
    return laws.limited(wanted, error, {**state, **seen}, gains, held=state)


@dataclass(frozen=True, kw_only=True)
class OneWaySwitch(LimitedController):
    """Keep the knob until the vital has settled, then set it to `high` (or `low`, by `when_high`) for good.

    Adaptive replay ratio applies this to the share of active units of the critic: `one_way`. The replay ratio is low
    while the share changes. When two checks differ by at most `tolerance`, plasticity has stopped changing and the
    ratio is raised.

    Settings:
        tolerance: largest difference of two checks that counts as settled.
        period: readings between two checks.
        window: number of readings that a check averages.

    The authors check the mean over the last episode every 50 episodes, with tolerance 0.001, for ratios 0.5 and 2.

    >>> switch = OneWaySwitch(high=2.0)
    >>> state = switch.init(torch.tensor(0.5))
    >>> for share in (0.9, 0.7, 0.7, 0.1):
    ...     value, state = switch.step(torch.tensor(share), state)
    ...     print(value.item())
    0.5
    0.5
    2.0
    2.0
    """

    cite = Cite.of("adaptive-rr", "section 5")
    declared: ClassVar[Mapping[str, str]] = {
        "bumpless": "it waits for a vital that does not change, so it switches at a steady vital",
        "no windup": "it never switches back, as in the paper",
        "settles": "it has no desired value of the vital",
    }
    tolerance: float = knob(0.001, low=0.0, unit="unit of the vital", source="arXiv:2310.07418 and its code")
    period: int = knob(1, low=1, unit="readings", integer=True, source="50 episodes in arXiv:2310.07418")
    window: int = knob(1, low=1, unit="readings", integer=True, source="the last episode in the authors' code")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window > self.period:
            raise BadSetting(f"{self.name}: window ({self.window}) must not be above period ({self.period})")

    def init(self, value: Tensor) -> State:
        state = laws.start(value, gains(self))
        zero = torch.zeros_like(state["value"])
        return {**state, "call": zero, "total": zero.clone(), "before": zero * torch.nan, "thrown": zero.clone()}

    def law(self, error: Tensor, state: State, settings: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        return one_way(error, state, {**settings, "target": settings["high" if self.when_high == "raise" else "low"]})
