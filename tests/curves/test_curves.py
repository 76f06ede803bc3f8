"""Every curve keeps the laws and agrees with a slow restatement; broken ones are caught."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from homeostat.core.curve import Fitted
from homeostat.core.errors import BadInput, UnknownName
from homeostat.curves import EntropyReward, PowerLaw
from homeostat.testing.check import check_component
from homeostat.testing.curve_laws import points, sample


@pytest.mark.oracle("entropy-reward")
def test_entropy_reward_is_textbook_regression_on_exp_h():
    """Simple regression of R on u = -exp(H) by its textbook sums: a = S_uy / S_uu, b = mean R - a mean u, and the
    interval of a new point at u0, s sqrt(1 + 1/n + (u0 - mean u)^2 / S_uu). The paper fits the same two numbers to its
    runs (section 2.4); its released code trains only, there is no fit in it to compare with."""
    h, r = points(EntropyReward()).tolist(), sample(EntropyReward(), 5, points(EntropyReward())).tolist()
    u, n = [-math.exp(value) for value in h], len(h)
    mean_u, mean_r = sum(u) / n, sum(r) / n
    s_uu = sum((v - mean_u) ** 2 for v in u)
    a = sum((v - mean_u) * (w - mean_r) for v, w in zip(u, r, strict=True)) / s_uu
    b = mean_r - a * mean_u
    s = math.sqrt(sum((w - a * v - b) ** 2 for v, w in zip(u, r, strict=True)) / (n - 2))
    t = float(stats.t.ppf(0.975, n - 2))
    fitted = EntropyReward().fit(h, r)
    assert fitted.values == pytest.approx((a, b), rel=1e-9)
    assert fitted.noise == pytest.approx(s, rel=1e-9)
    assert fitted.interval("a") == pytest.approx((a - t * s / math.sqrt(s_uu), a + t * s / math.sqrt(s_uu)), rel=1e-8)
    ceiling = fitted.forecast(0.0)
    spread = t * s * math.sqrt(1 + 1 / n + (-1 - mean_u) ** 2 / s_uu)
    assert ceiling.mean[0] == pytest.approx(b - a, rel=1e-9)
    assert ceiling.high[0] - ceiling.mean[0] == pytest.approx(spread, rel=1e-8)


@pytest.mark.oracle("power-law")
@pytest.mark.parametrize("truth", [(2.0, 0.5, 0.3), (1.0, 0.07, 0.0), (-3.0, 1.2, 4.0), (0.5, -0.4, 1.0)])
def test_power_law_leaves_no_more_than_the_best_of_a_fine_grid_of_exponents(truth):
    """For each exponent of a fine grid a and c are a straight-line fit; no exponent may leave less than the fit."""
    curve, x = PowerLaw(), points(PowerLaw())
    y = curve.value(x, np.array(truth)) + 0.01 * np.random.default_rng(1).normal(size=x.shape)
    fitted = curve.fit(x, y)
    left = float(np.square(y - curve.value(x, np.array(fitted.values))).sum())
    for b in np.linspace(truth[1] - 0.5, truth[1] + 0.5, 401):
        if abs(b) > 1e-9:
            line = np.polyfit(x**-b, y, 1)
            assert left <= float(np.square(y - np.polyval(line, x**-b)).sum()) * (1 + 1e-9)
    low, high = fitted.interval("b", level=0.999)
    assert low < truth[1] < high


def test_power_law_refuses_what_it_is_not_defined_for():
    with pytest.raises(BadInput, match="above 0"):
        PowerLaw().fit([0.0, 1, 2, 3, 4, 5], [5.0, 4, 3, 2, 1, 0])
    fitted = PowerLaw().fit(points(PowerLaw()), sample(PowerLaw(), 0, points(PowerLaw())))
    with pytest.raises(BadInput, match="above 0"):
        fitted.forecast(-1.0)


def test_points_that_determine_too_little_are_refused():
    with pytest.raises(BadInput, match="do not determine"):
        PowerLaw().fit([1.0, 1, 2, 2, 1, 2], [1.0, 1.1, 0.5, 0.6, 1.05, 0.55])


def test_reading_back_names_what_is_wrong():
    row = EntropyReward().fit(points(EntropyReward()), sample(EntropyReward(), 0, points(EntropyReward()))).to_json()
    with pytest.raises(UnknownName, match="entropy-reward"):
        Fitted.from_json({**row, "curve": "entropy-rewards"})
    with pytest.raises(BadInput, match="noise"):
        Fitted.from_json({k: v for k, v in row.items() if k != "noise"})


@dataclass(frozen=True, kw_only=True)
class _Bad(EntropyReward, abstract=True):
    """A curve that breaks laws, to see that the checks can fail."""

    fault: str = "none"

    def derivative(self, x, parameters):
        return super().derivative(x, parameters) * (1.1 if self.fault == "slope" else 1.0)

    def fit(self, x, y):
        if self.fault == "lax":
            x, y = np.nan_to_num(x), np.nan_to_num(y)
        if self.fault == "writes":
            y[0] = y[1]
        found = super().fit(x, y)
        values = tuple(v * (1.01 if self.fault == "biased" else 1.0) for v in found.values)
        covariance = tuple(tuple(v * (0.4 if self.fault == "sure" else 1.0) for v in row) for row in found.covariance)
        return Fitted(self, values, covariance, found.noise, found.points)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("slope", "derivative"),
        ("biased", "recovers"),
        ("sure", "covers"),
        ("lax", "refuses"),
        ("writes", "pure"),
    ],
)
def test_a_broken_curve_is_caught(fault, law):
    assert law in check_component(_Bad(fault=fault), only=[law]).failed
