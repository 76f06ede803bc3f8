"""Control laws as pure elementwise functions: (error, state, gains) -> (knob, state).

Conventions for every function here:

    error     [*R]  positive: raise the knob. The caller chooses the sign (measured - set point, or its negative).
    state     flat dict of tensors [*R]; "value" is the last value of the knob.
    gains     mapping of 0-dim (or [*R]) tensors: "low", "high", "slew", and the gains that the law names.

The knob stays within [low, high] and changes by at most `slew` per call. A non-finite error (a missing measurement)
changes neither knob nor state. The state holds the limited knob, so nothing winds up while a limit is active.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from homeostat.core.treatment import State

Gains = Mapping[str, Tensor]
ControlLaw = Callable[[Tensor, State, Gains], tuple[Tensor, State]]


def start(value: Tensor, gains: Gains) -> State:
    """Initial state from the current value of the knob, so that the knob does not jump at the start."""
    value = value.to(torch.float64).clamp(gains["low"], gains["high"])
    return {"value": value, "base": value.clone(), "error": torch.full_like(value, torch.nan)}


def proportional(error: Tensor, state: State, gains: Gains) -> tuple[Tensor, State]:
    """knob = base + kp * error, with base the value of the knob at the start.

    Gains: kp. A disturbance leaves a steady offset of the order of 1 / kp.
    """
    return limited(state["base"] + gains["kp"] * error, error, state, gains)


def pi(error: Tensor, state: State, gains: Gains) -> tuple[Tensor, State]:
    """knob <- knob + kp * (error - previous error) + ki * error: proportional-integral in velocity form.

    Equivalent to knob = kp * error + I, I <- I + ki * error, with back-calculation as anti-windup (I <- limited knob -
    kp * error after every call) and an initial I for which the knob does not jump.
    Gains: kp, ki (per call). Source: Åström and Hägglund (2006), Advanced PID Control, sections 3.5 and 13.
    """
    change = torch.where(torch.isfinite(state["error"]), error - state["error"], 0.0)
    return limited(state["value"] + gains["kp"] * change + gains["ki"] * error, error, state, gains)


def hysteresis(error: Tensor, state: State, gains: Gains) -> tuple[Tensor, State]:
    """A switch with a dead band: `high` if error > band, `low` if error < -band, otherwise unchanged.

    Gains: band. "base" in the state is the current position.
    """
    target = torch.where(error > gains["band"], gains["high"], state["base"])
    target = torch.where(error < -gains["band"], gains["low"], target)
    return limited(target, error, {**state, "base": target}, gains, held=state)


def dual_ascent(error: Tensor, state: State, gains: Gains, *, optimistic: bool = False) -> tuple[Tensor, State]:
    """Multiplier of a constraint: knob <- knob + rate * error, projected on [low, high].

    Optimistic: adds rate * (2 * error - previous error), which damps the oscillation of multiplier and constraint
    (Daskalakis, Ilyas, Syrgkanis, Zeng 2018, arXiv:1711.00141, eq. 5). Gains: rate.
    """
    previous = torch.where(torch.isfinite(state["error"]), state["error"], error)
    ahead = 2 * error - previous if optimistic else error
    return limited(state["value"] + gains["rate"] * ahead, error, state, gains)


def multiplicative(error: Tensor, state: State, gains: Gains) -> tuple[Tensor, State]:
    """knob <- knob * exp(rate * error), by at most a factor of `factor` per call.

    For knobs on a logarithmic scale. A knob at 0 stays at 0 unless low > 0. Gains: rate, factor.
    """
    bound = gains["factor"].log()
    power = (gains["rate"] * error).nan_to_num().clamp(-bound, bound)
    return limited(state["value"] * power.exp(), error, state, gains)


def limited(
    wanted: Tensor, error: Tensor, state: State, gains: Gains, held: State | None = None
) -> tuple[Tensor, State]:
    """Limit the wanted value and store it in the state; where the error is missing, keep the old state (`held`)."""
    measured = torch.isfinite(error)
    value = state["value"]
    wanted = torch.minimum(torch.maximum(wanted, gains["low"]), gains["high"])
    moved = value + torch.minimum(torch.maximum(wanted - value, -gains["slew"]), gains["slew"])
    # a bound that has moved past the knob overrides the slew limit
    moved = torch.minimum(torch.maximum(moved, gains["low"]), gains["high"])
    new = {**state, "value": moved, "error": error.to(value.dtype)}
    old = held or state
    new = {key: torch.where(measured, new[key], old[key]) for key in new}
    return new["value"], new
