"""The laws of a curve, checked on data generated from the family's own example."""

from __future__ import annotations

import json

import numpy as np

from homeostat.core.curve import Array, Curve, Fitted
from homeostat.core.errors import BadInput, BadSetting
from homeostat.core.random import derived_seed
from homeostat.testing import common_laws as facts
from homeostat.testing.binding import Check, bound, statements
from homeostat.testing.law import Law

POINTS = 24
FITS = 250
NOISE = 0.03
"""Standard deviation of the noise, as a share of the example's range."""

LEVEL = 0.9
SLACK = 0.06
"""Allowed difference of the coverage of an interval from its level: 3.2 standard deviations of 250 fits."""


def laws_for(curve: Curve, thorough: bool = False) -> list[Law]:
    """Every law that a curve must satisfy."""
    return bound(TABLE, lambda: curve)


def laws_of_kind() -> dict[str, str]:
    """Name -> statement of every law of a curve."""
    return statements(TABLE)


def points(curve: Curve, number: int = POINTS) -> Array:
    """x over the domain of the family's example, with its spacing."""
    low, high = curve.domain
    return np.geomspace(low, high, number) if curve.spacing == "log" else np.linspace(low, high, number)


def sample(curve: Curve, seed: int, x: Array, noise: float = NOISE) -> Array:
    """The family's example at x, with normal noise."""
    exact = curve.value(x, np.array(curve.example))
    size = noise * float(np.ptp(curve.value(points(curve), np.array(curve.example))))
    return exact + size * np.random.default_rng(derived_seed("curve", seed)).normal(size=x.shape)


def _derivative(curve: Curve) -> None:
    """The derivatives by the parameters agree with central differences of the curve."""
    x, at = points(curve), np.array(curve.example)
    for p in range(len(at)):
        step = np.zeros_like(at)
        step[p] = 1e-5 * max(1.0, abs(at[p]))
        slope = (curve.value(x, at + step) - curve.value(x, at - step)) / (2 * step[p])
        given = curve.derivative(x, at)[:, p]
        wrong = np.abs(slope - given).max() / (1 + np.abs(slope).max())
        assert wrong < 1e-6, f"the derivative by {curve.parameters[p]} is {wrong:.2g} off"


def _recovers(curve: Curve) -> None:
    """A fit to exact points recovers the parameters, and its interval has zero width."""
    fitted = curve.fit(points(curve), sample(curve, 0, points(curve), noise=0.0))
    for name, found, true in zip(curve.parameters, fitted.values, curve.example, strict=True):
        assert abs(found - true) < 1e-6 * (1 + abs(true)), f"{name} is {found:.9g}, not {true:g}"
    seen = fitted.forecast(points(curve))
    assert float((seen.high - seen.low).max()) < 1e-5, "its interval has a width although the data are exact"


def _covers(curve: Curve) -> None:
    """On noisy data, the intervals of the curve, an observation and each parameter cover at the stated rate."""
    x, true = points(curve), np.array(curve.example)
    ask = x[[0, POINTS // 2, -1]]
    rates = np.zeros(2 + len(true))
    for seed in range(FITS):
        fitted = curve.fit(x, sample(curve, seed, x))
        fresh = sample(curve, -1 - seed, ask)
        mean, one = fitted.forecast(ask, level=LEVEL, of="curve"), fitted.forecast(ask, level=LEVEL)
        for k, (seen, aim) in enumerate(((mean, curve.value(ask, true)), (one, fresh))):
            rates[k] += float(np.mean((seen.low <= aim) & (aim <= seen.high))) / FITS
        for k, (name, value) in enumerate(zip(curve.parameters, true, strict=True)):
            low, high = fitted.interval(name, level=LEVEL)
            rates[2 + k] += (low <= value <= high) / FITS
    for what, rate in zip(("curve", "observation", *curve.parameters), rates, strict=True):
        assert abs(rate - LEVEL) < SLACK, f"the {LEVEL:.0%} interval of the {what} covers {rate:.1%} of the time"


def _interval(curve: Curve) -> None:
    """Low < mean < high; the interval of an observation is wider, and a higher level gives a wider interval."""
    fitted = curve.fit(points(curve), sample(curve, 0, points(curve)))
    x = points(curve)
    narrow, wide = fitted.forecast(x, of="curve"), fitted.forecast(x)
    assert bool((narrow.low < narrow.mean).all() and (narrow.mean < narrow.high).all()), "an interval is not around"
    assert bool((wide.low < narrow.low).all()), "the interval of an observation is narrower than that of the mean"
    assert bool((fitted.forecast(x, level=0.99).low < wide.low).all()), "a higher level does not widen the interval"


def _order(curve: Curve) -> None:
    """The order of the points does not matter, bit for bit."""
    x, y = points(curve), sample(curve, 0, points(curve))
    shuffled = np.random.default_rng(0).permutation(len(x))
    assert curve.fit(x, y) == curve.fit(x[shuffled], y[shuffled]), "another order gives a different fit"


def _pure(curve: Curve) -> None:
    """It uses no randomness, does not modify its inputs, and two fits to the same data agree."""
    x, y = points(curve), sample(curve, 0, points(curve))
    kept, state = (x.copy(), y.copy()), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    first, second = curve.fit(x, y), curve.fit(x, y)
    first.forecast(x)
    same = np.array_equal(state, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002
    assert same, "it moves numpy's global random state"
    assert np.array_equal(kept[0], x) and np.array_equal(kept[1], y), "it modifies its data"
    assert first == second, "two fits to the same data differ"


def _json(curve: Curve) -> None:
    """A fitted curve survives a round trip through JSON."""
    fitted = curve.fit(points(curve), sample(curve, 0, points(curve)))
    again = Fitted.from_json(json.loads(json.dumps(fitted.to_json(), allow_nan=False)))
    assert again == fitted, "read back from JSON, the fit differs"


def _refuses(curve: Curve) -> None:
    """Too few points, NaN, infinite or constant data, and lists of different lengths are refused with a reason."""
    x, y = points(curve), sample(curve, 0, points(curve))
    few = len(curve.parameters) + 1
    bad = {
        "too few points": (x[:few], y[:few]),
        "no points": ([], []),
        "two lengths": (x, y[:-1]),
        "a table": (x[:, None], y[:, None]),
        "constant x": (np.full_like(x, x[0]), y),
        "constant y": (x, np.full_like(y, y[0])),
        **{f"{junk} in {'xy'[k]}": _spoilt(x, y, k, junk) for k in (0, 1) for junk in (np.nan, np.inf)},
    }
    for what, (first, second) in bad.items():
        _refused(lambda a=first, b=second: curve.fit(a, b), BadInput, what)
    fitted = curve.fit(x, y)
    _refused(lambda: fitted.forecast(float("nan")), BadInput, "a forecast at NaN")
    _refused(lambda: fitted.forecast(x, level=1.5), BadSetting, "a level of 1.5")
    _refused(lambda: fitted.interval("nothing"), BadInput, "an unknown parameter")


def _spoilt(x: Array, y: Array, which: int, junk: float) -> tuple[Array, Array]:
    pair = (x.copy(), y.copy())
    pair[which][3] = junk
    return pair


def _refused(call: object, error: type[Exception], what: str) -> None:
    try:
        call()  # type: ignore[operator]
    except error as why:
        assert len(str(why)) > 20, f"{what} is refused without a reason"
        return
    raise AssertionError(f"{what} must raise {error.__name__}")


TABLE: dict[str, Check] = {
    **facts.COMMON,
    "settings are plain": facts.settings_are_plain,
    "derivative": _derivative,
    "recovers": _recovers,
    "covers": _covers,
    "interval": _interval,
    "order": _order,
    "pure": _pure,
    "json": _json,
    "refuses": _refuses,
}
"""Every law of a curve."""
