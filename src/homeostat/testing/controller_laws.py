"""The laws of a controller."""

from __future__ import annotations

import io
from dataclasses import replace

import torch
from torch import Tensor

from homeostat.core.controller import Controller
from homeostat.core.random import Draw
from homeostat.core.treatment import State
from homeostat.testing import common_laws as facts
from homeostat.testing.binding import Check, bound, statements
from homeostat.testing.law import Law

SATURATED = 500
RECOVERY = 3
SETTLING = 600


def laws_for(controller: Controller, thorough: bool = False) -> list[Law]:
    """Every law that a controller must satisfy. It must have the knobs set_point, low, high and slew."""
    return bound(TABLE, lambda: controller)


def laws_of_kind() -> dict[str, str]:
    """Name -> statement of every law of a controller."""
    return statements(TABLE)


def _range(controller: Controller) -> tuple[float, float, float]:
    """(set point, low, high) in use; open ends are replaced by finite ones."""
    low = max(float(getattr(controller, "low", 0.0)), -1e6)
    high = min(float(getattr(controller, "high", 1.0)), 1e6)
    return float(getattr(controller, "set_point", 0.0)), low, high


def _noise(count: int, scale: float) -> Tensor:
    return Draw(0).normal("noise", torch.empty(count, dtype=torch.float64)) * scale


def _run(controller: Controller, measured: Tensor, state: State) -> tuple[Tensor, State]:
    """Knob after each measurement [T], and the last state."""
    knobs = []
    for value in measured:
        knob, state = controller.step(value, state)
        knobs.append(knob)
    return torch.stack(knobs), state


def _middle(controller: Controller) -> Tensor:
    _, low, high = _range(controller)
    return torch.tensor((low + high) / 2, dtype=torch.float64)


def _bounded(controller: Controller) -> None:
    """The knob never leaves [low, high], for any measurement and any start value."""
    set_point, low, high = _range(controller)
    starts = torch.tensor([low - 1, low, (low + high) / 2, high, high + 1], dtype=torch.float64)
    for scale in (0.1, 10.0, 1e6):
        measured = (set_point + _noise(50, scale))[:, None].expand(50, len(starts))
        knobs, _ = _run(controller, measured, controller.init(starts))
        inside = bool(((knobs >= controller.low) & (knobs <= controller.high)).all())  # type: ignore[attr-defined]
        assert inside, f"with measurements of size {scale:g} the knob leaves [{low:g}, {high:g}]"


def _slew(controller: Controller) -> None:
    """One call moves the knob by at most `slew`, also if `slew` is a hundredth of its range."""
    set_point, low, high = _range(controller)
    start = _middle(controller)
    own = float(controller.slew)  # type: ignore[attr-defined]
    for slew in (own, min(own, (high - low) / 100)):
        limited = replace(controller, slew=slew)  # type: ignore[call-arg]
        knobs, _ = _run(limited, set_point + _noise(100, 100.0), limited.init(start))
        moves = torch.diff(torch.cat([start[None], knobs])).abs()
        assert bool((moves <= slew * (1 + 1e-9)).all()), f"the knob moves by {float(moves.max()):g} in one call"


def _bumpless(controller: Controller) -> None:
    """Switched on at the set point, it does not move the knob."""
    set_point, _, _ = _range(controller)
    start = _middle(controller)
    knobs, _ = _run(controller, torch.full((5,), set_point, dtype=torch.float64), controller.init(start))
    assert bool((knobs == start).all()), f"the knob jumps from {float(start):g} to {float(knobs[0]):g}"


def _direction(controller: Controller) -> None:
    """A vital above the set point moves the knob in the direction `when_high`, and never in the other."""
    set_point, _, _ = _range(controller)
    start = _middle(controller)
    knobs, _ = _run(controller, torch.full((50,), set_point + 1.0, dtype=torch.float64), controller.init(start))
    sign = 1 if getattr(controller, "when_high", "raise") == "raise" else -1
    assert bool((sign * torch.diff(torch.cat([start[None], knobs])) >= 0).all()), "the knob moves the wrong way"
    assert float(sign * (knobs[-1] - start)) > 0, "the knob does not move"


def _no_windup(controller: Controller) -> None:
    """After a long time at its limit, the knob leaves the limit within a few calls after the error changes sign."""
    set_point, _, _ = _range(controller)
    side = torch.tensor([10.0, -10.0], dtype=torch.float64)
    knobs, state = _run(
        controller, (set_point + side).expand(SATURATED, 2), controller.init(_middle(controller).expand(2))
    )
    after, _ = _run(controller, (set_point - side).expand(RECOVERY, 2), state)
    left = bool((after[-1] != knobs[-1]).all())
    assert left, f"still at its limit {RECOVERY} calls after the error changed sign"


def _settles(controller: Controller) -> None:
    """A first-order plant comes to within 1 % of the set point and stays there.

    The plant: vital <- vital + 0.2 * (2 * (c - u) - (vital - set point)), u the knob as a fraction of its range, so
    the vital is at the set point for u = c; the sign follows `when_high`.
    """
    set_point, low, high = _range(controller)
    sign = 1.0 if getattr(controller, "when_high", "raise") == "raise" else -1.0
    centre = torch.tensor([0.3, 0.7], dtype=torch.float64)
    vital, state = torch.full_like(centre, set_point + 0.5), controller.init(_middle(controller).expand(2))
    gaps = []
    for _ in range(SETTLING):
        knob, state = controller.step(vital, state)
        share = (knob - low) / (high - low)
        vital = vital + 0.2 * (2 * sign * (centre - share) - (vital - set_point))
        gaps.append(vital - set_point)
    gap = float(torch.stack(gaps[-100:]).abs().max())
    assert gap < 0.01, f"the vital is still {gap:.3g} away from the set point after {SETTLING} calls"


def _missing_holds(controller: Controller) -> None:
    """NaN and infinite measurements change neither the knob nor the state."""
    set_point, _, _ = _range(controller)
    noise = set_point + _noise(20, 0.3)
    clean, _ = _run(controller, noise, controller.init(_middle(controller)))
    state, knobs = controller.init(_middle(controller)), []
    for value in noise:
        for missing in (torch.nan, torch.inf, -torch.inf):
            held, state = controller.step(torch.tensor(missing, dtype=torch.float64), state)
            assert not knobs or bool(held == knobs[-1]), "a missing measurement moves the knob"
        knob, state = controller.step(value, state)
        knobs.append(knob)
    assert torch.equal(clean, torch.stack(knobs)), "a missing measurement changes the state"


def _pure(controller: Controller) -> None:
    """The same inputs give the same outputs, and the inputs are not modified."""
    set_point, _, _ = _range(controller)
    _, state = _run(controller, set_point + _noise(5, 0.3), controller.init(_middle(controller)))
    kept = {key: value.clone() for key, value in state.items()}
    value = torch.tensor(set_point + 0.1, dtype=torch.float64)
    first, after = controller.step(value, state)
    second, again = controller.step(value, state)
    assert torch.equal(first, second) and _same(after, again), "two calls with the same inputs differ"
    assert _same(state, kept), "the given state is modified"
    assert all(isinstance(entry, Tensor) for entry in after.values()), "the state has values that are not tensors"


def _replicas(controller: Controller) -> None:
    """A stack of measurements gives the same result as each measurement alone."""
    set_point, low, high = _range(controller)
    starts = torch.tensor([low, (low + high) / 2, high], dtype=torch.float64)
    measured = set_point + _noise(60, 0.3).reshape(20, 3)
    measured[3, 1] = torch.nan
    stacked, _ = _run(controller, measured, controller.init(starts))
    for r in range(3):
        alone, _ = _run(controller, measured[:, r], controller.init(starts[r]))
        assert torch.equal(stacked[:, r], alone), "a replica is controlled differently than alone"


def _resume(controller: Controller) -> None:
    """A state that is saved to bytes and loaded continues bit for bit."""
    set_point, _, _ = _range(controller)
    noise = set_point + _noise(40, 0.3)
    _, state = _run(controller, noise[:20], controller.init(_middle(controller)))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    expected, _ = _run(controller, noise[20:], state)
    resumed, _ = _run(controller, noise[20:], loaded)
    once, _ = _run(controller, noise, controller.init(_middle(controller)))
    assert torch.equal(resumed, expected), "loaded from bytes, it continues differently"
    assert torch.equal(resumed, once[20:]), "it keeps data outside of its state"


def _same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[key].nan_to_num(), second[key].nan_to_num()) for key in first
    )


TABLE: dict[str, Check] = {
    **facts.COMMON,
    "settings are plain": facts.settings_are_plain,
    "bounded": _bounded,
    "slew": _slew,
    "bumpless": _bumpless,
    "direction": _direction,
    "no windup": _no_windup,
    "settles": _settles,
    "missing holds": _missing_holds,
    "pure": _pure,
    "replicas": _replicas,
    "resume": _resume,
}
"""Every law of a controller."""
