"""Control laws as pure functions: (error, state, gains) -> (knob, state), elementwise, so replica axes pass through.

Conventions for every function here:

    error     [*R]  positive: raise the knob. The caller chooses the sign (measured - set point, or its negative).
    state     flat dict of tensors [*R]; "value" is the knob as last given out.
    gains     mapping of 0-dim (or [*R]) tensors: at least "low", "high" and "slew", and what the law names.

The knob stays within [low, high] and moves by at most `slew` per call. An error that is not finite (a measurement that
is missing) changes nothing: the knob is held and the state stays. Limits are part of the state: what is remembered is
the limited knob, so nothing winds up while a limit is active.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from homeostat.core.treatment import State

Gains = Mapping[str, Tensor]
ControlLaw = Callable[[Tensor, State, Gains], tuple[Tensor, State]]


def start(value: Tensor, gains: Gains) -> State:
    """State that continues from the knob's present value: nothing jumps when the controller is switched on."""
    value = value.to(torch.float64).clamp(gains["low"], gains["high"])
    return {"value": value, "base": value.clone(), "error": torch.full_like(value, torch.nan)}


def proportional(error: Tensor, state: State, gains: Gains) -> tuple[Tensor, State]:
    """knob = base + kp * error, with base the knob's value when the controller was switched on.

    Gains: kp. A disturbance leaves a steady offset of the order of 1 / kp.
    """
    return _give_out(state["base"] + gains["kp"] * error, error, state, gains)


def pi(error: Tensor, state: State, gains: Gains) -> tuple[Tensor, State]:
    """knob <- knob + kp * (error - previous error) + ki * error: proportional-integral in velocity form.

    The same as knob = kp * error + I, I <- I + ki * error, with back-calculation (I <- limited knob - kp * error after
    every call), which is the anti-windup, and with I chosen at the first error so that the start is bumpless.
    Gains: kp, ki (per call). Source: Astrom and Hagglund (2006), Advanced PID Control, sections 3.5 and 13.
    """
    change = torch.where(torch.isfinite(state["error"]), error - state["error"], 0.0)
    return _give_out(state["value"] + gains["kp"] * change + gains["ki"] * error, error, state, gains)


def hysteresis(error: Tensor, state: State, gains: Gains) -> tuple[Tensor, State]:
    """A switch with a dead band: `high` once error > band, `low` once error < -band, between them as it is.

    Gains: band. "base" holds what it is switched to.
    """
    target = torch.where(error > gains["band"], gains["high"], state["base"])
    target = torch.where(error < -gains["band"], gains["low"], target)
    return _give_out(target, error, {**state, "base": target}, gains, held=state)


def dual_ascent(error: Tensor, state: State, gains: Gains, *, optimistic: bool = False) -> tuple[Tensor, State]:
    """Multiplier of a constraint: knob <- [knob + rate * error], projected on [low, high].

    Optimistic: rate * (2 * error - previous error), which damps the oscillation of multiplier and constraint
    (Daskalakis, Ilyas, Syrgkanis, Zeng 2018, arXiv:1711.00141, eq. 5). Gains: rate.
    """
    previous = torch.where(torch.isfinite(state["error"]), state["error"], error)
    ahead = 2 * error - previous if optimistic else error
    return _give_out(state["value"] + gains["rate"] * ahead, error, state, gains)


def multiplicative(error: Tensor, state: State, gains: Gains) -> tuple[Tensor, State]:
    """knob <- knob * exp(rate * error), by at most a factor of `factor` per call.

    For knobs that live on a logarithmic scale. A knob at 0 stays there unless low > 0. Gains: rate, factor.
    """
    bound = gains["factor"].log()
    power = (gains["rate"] * error).nan_to_num().clamp(-bound, bound)
    return _give_out(state["value"] * power.exp(), error, state, gains)


def _give_out(
    wanted: Tensor, error: Tensor, state: State, gains: Gains, held: State | None = None
) -> tuple[Tensor, State]:
    """Limit what is wanted, remember it; where the error is missing, keep everything as it was (`held`)."""
    measured = torch.isfinite(error)
    value = state["value"]
    wanted = torch.minimum(torch.maximum(wanted, gains["low"]), gains["high"])
    moved = value + torch.minimum(torch.maximum(wanted - value, -gains["slew"]), gains["slew"])
    # a bound that moved past the knob wins over the slew limit
    moved = torch.minimum(torch.maximum(moved, gains["low"]), gains["high"])
    new = {**state, "value": moved, "error": error.to(value.dtype)}
    old = held or state
    new = {key: torch.where(measured, new[key], old[key]) for key in new}
    return new["value"], new
