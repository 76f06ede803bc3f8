"""The control laws against textbook recursions with plain floats."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from homeostat.controllers import PI, DualAscent, Hysteresis, Multiplicative, laws
from homeostat.core.errors import BadSetting


def gains(**values: float) -> dict[str, torch.Tensor]:
    values = {"low": -5.0, "high": 5.0, "slew": 1e30} | values
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def drive(law, errors: list[float], given_gains, start: float = 0.0, **more) -> list[float]:
    state, out = laws.start(torch.tensor(start, dtype=torch.float64), given_gains), []
    for error in errors:
        knob, state = law(torch.tensor(error, dtype=torch.float64), state, given_gains, **more)
        out.append(float(knob))
    return out


ERRORS = [random.Random(3).uniform(-2, 2) for _ in range(60)]


@pytest.mark.oracle("proportional")
def test_proportional_is_a_line_through_where_it_started_slewed_and_clamped():
    got, value = drive(laws.proportional, ERRORS, gains(kp=3.0, slew=1.5), 0.5), 0.5
    for error, knob in zip(ERRORS, got, strict=True):
        target = max(-5.0, min(5.0, 0.5 + 3.0 * error))
        value += max(-1.5, min(1.5, target - value))
        assert knob == pytest.approx(value, abs=1e-12)


@pytest.mark.oracle("pi")
def test_pi_equals_the_positional_form_with_back_calculation():
    kp, ki, low, high, slew = 0.7, 0.3, -1.0, 1.5, 0.8
    value, integral, expected = 0.2, 0.2 - kp * ERRORS[0], []
    for error in ERRORS:
        integral += ki * error
        wanted = min(max(kp * error + integral, low), high)
        value += min(max(wanted - value, -slew), slew)
        integral = value - kp * error
        expected.append(value)
    got = drive(laws.pi, ERRORS, gains(kp=kp, ki=ki, low=low, high=high, slew=slew), 0.2)
    assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.oracle("dual-ascent")
def test_dual_ascent_plain_and_optimistic():
    value, expected, before = 0.0, [], ERRORS[0]
    for error in ERRORS:
        value = min(max(value + 0.4 * (2 * error - before), 0.0), 2.0)
        before = error
        expected.append(value)
    settings = gains(rate=0.4, low=0.0, high=2.0)
    assert drive(laws.dual_ascent, ERRORS, settings, optimistic=True) == pytest.approx(expected, abs=1e-12)
    assert drive(laws.dual_ascent, [1.0, 1.0, -9.0], settings) == pytest.approx([0.4, 0.8, 0.0])


def test_optimism_damps_the_cycle_of_a_bilinear_game():
    """min_x max_y x*y: plain gradient descent-ascent spirals out, the optimistic one spirals in."""

    def distance(optimistic: bool) -> float:
        settings = gains(rate=0.2, low=-1e3, high=1e3)
        x = y = torch.tensor(1.0, dtype=torch.float64)
        sx, sy = laws.start(x, settings), laws.start(y, settings)
        for _ in range(400):
            (x, sx), (y, sy) = (
                laws.dual_ascent(-y, sx, settings, optimistic=optimistic),
                laws.dual_ascent(x, sy, settings, optimistic=optimistic),
            )
        return math.hypot(float(x), float(y))

    assert distance(True) < 0.1 < 10 < distance(False)


@pytest.mark.oracle("hysteresis")
def test_hysteresis_switches_only_outside_the_band():
    got = drive(laws.hysteresis, [0.05, 0.2, 0.05, -0.05, -0.2, 0.0], gains(band=0.1, low=0.0, high=1.0), 0.4)
    assert got == [0.4, 1.0, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.oracle("multiplicative")
def test_multiplicative_is_bounded_by_its_factor_and_moves_in_logarithms():
    settings = gains(rate=0.5, factor=1.5, low=1e-3, high=100.0)
    assert drive(laws.multiplicative, [0.1, -0.1, 50.0, -50.0], settings, 2.0) == pytest.approx(
        [2 * math.exp(0.05), 2.0, 3.0, 2.0]
    )


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=30), st.floats(-9, 9))
def test_nothing_leaves_the_limits_whatever_comes(errors: list[float], start: float):
    settings = gains(kp=3.0, ki=2.0, band=0.1, rate=1.0, factor=2.0, slew=0.5, low=0.25, high=2.0)
    for law in (laws.proportional, laws.pi, laws.hysteresis, laws.dual_ascent, laws.multiplicative):
        previous = min(max(start, 0.25), 2.0)
        for knob in drive(law, errors, settings, start):
            assert 0.25 <= knob <= 2.0
            assert abs(knob - previous) <= 0.5 + 1e-9
            previous = knob


def test_bad_settings_say_what_to_do():
    with pytest.raises(BadSetting, match=r"low .* must not be above high"):
        PI(low=2.0, high=1.0)
    with pytest.raises(BadSetting, match="every"):
        Hysteresis(every=0)
    with pytest.raises(BadSetting, match="when_high"):
        DualAscent(when_high="up")
    with pytest.raises(BadSetting, match="factor"):
        Multiplicative(factor=0.5)
