"""Early-warning statistics and the stability model against slow restatements, and what they say of known processes.

Against ewstools 2.1.3 (Bury 2023), run aside on one trending AR(1) series of 200 values, window 100: variance (as it
is and after detrending) and the tau of variance and skewness agree to 2e-15. Its autocorrelation is the Pearson
correlation of the two lagged halves, ours the estimator of R's `acf` that the authors use: they differ by up to 0.04,
tau by 0.06.

The authors' published tau (their Figure2_dat.csv and Figure3_dat.csv) have means of 0.48 (variance) and 0.28
(autocorrelation) for the Allee model, 0.31 and 0.27 for May's. Their windows on May's model end at 1.5, after the
unstable point 2.69. Their null distributions (standard deviation 0.1) are too narrow for series of that length, where
ours have 0.5 and 0.4: several replicates seem to have been joined into one series each.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from homeostat.core.errors import BadInput, BadSetting, UnknownName
from homeostat.diagnosis.early_warning import STATISTICS, RollingTrends, detrended, rolling, trend
from homeostat.diagnosis.stability_model import p_value, simulate_stationary, stability_fit
from homeostat.diagnosis.trends import kendall


def ar1(seed, shape, a=0.9):
    rng = np.random.default_rng(seed)
    z, x = rng.normal(size=shape), np.empty(shape)
    x[..., 0] = z[..., 0]
    for t in range(1, shape[-1]):
        x[..., t] = a * x[..., t - 1] + math.sqrt(1 - a * a) * z[..., t]
    return x


def slow(name, window):
    n, mean = len(window), sum(window) / len(window)
    d = [v - mean for v in window]
    square = sum(v * v for v in d)
    if name == "variance":
        return square / (n - 1)
    if name == "skewness":
        return sum(v**3 for v in d) / n / (square / n) ** 1.5
    a = sum(d[i] * d[i + 1] for i in range(n - 1)) / square
    return a if name == "autocorrelation" else -math.log(a)


@pytest.mark.parametrize("name", STATISTICS)
def test_rolling_is_the_formula_in_every_window(name):
    x = ar1(0, (2, 40), 0.95)
    found = rolling(x, 25, name)
    assert found.shape == (2, 16)
    for r in range(2):
        expected = [slow(name, list(x[r, i : i + 25])) for i in range(16)]
        assert found[r] == pytest.approx(expected, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=40, unique=True))
def test_kendall_is_scipys(values):
    expected = stats.kendalltau(range(len(values)), values).statistic
    assert float(kendall(np.array(values))) == pytest.approx(expected)


def test_a_tie_is_neither_rise_nor_fall():
    assert float(kendall(np.array([0.0, 0.0, 1.0]))) == pytest.approx(2 / 3)


def test_detrending_is_scipys_gaussian_filter_and_takes_a_slow_course_away():
    from scipy.ndimage import gaussian_filter1d

    x = ar1(1, (3, 50))
    smooth = gaussian_filter1d(x, 0.25 / 0.675 * 0.2 * 50, axis=-1, mode="reflect")
    assert detrended(x) == pytest.approx(x - smooth, abs=1e-12)
    assert abs(detrended(np.linspace(0, 100, 200))[20:-20]).max() < 1


def test_a_watch_says_what_the_whole_series_says():
    x = ar1(2, (120,))
    watch = RollingTrends(window=40, horizon=50)
    for t, value in enumerate(x, 1):
        watch = watch.add(value).add(math.nan)
        if t in (41, 80, 120):
            for name in watch.names:
                kept = rolling(x[:t], 40, name)[-50:]
                assert watch.latest()[name] == kept[-1]
                assert watch.trends()[name] == pytest.approx(float(kendall(kept)))
    assert len(watch.values) == 40 and RollingTrends().latest() == {}


def test_what_cannot_be_known_is_missing():
    flat = np.full(30, 0.1)
    for name in ("autocorrelation", "return-rate", "skewness"):
        assert np.isnan(rolling(flat, 10, name)).all()
        assert np.isnan(trend(flat, name))
    assert (rolling(flat, 10, "variance") < 1e-30).all()
    assert np.isnan(STATISTICS["variance"](np.array([1.0]))) and np.isnan(kendall(np.array([1.0])))
    assert np.isnan(rolling(np.tile([1.0, -1.0], 10), 10, "return-rate")).all()
    for bad in (flat, flat[:10], np.array([*range(40), math.nan])):
        assert np.isnan(stability_fit(bad).statistic)
    assert math.isnan(p_value(flat))


def test_bad_input_says_what_to_do():
    x = np.zeros(10)
    with pytest.raises(BadInput, match="does not fit"):
        rolling(x, 11)
    with pytest.raises(UnknownName, match="variance"):
        rolling(x, 5, "varianc")
    with pytest.raises(BadSetting):
        detrended(x, 0)
    with pytest.raises(BadSetting):
        RollingTrends(window=2)


def exact(x, rate, ratio):
    """Log likelihood with mu and s at their best, moments by integrating their equations between the samples."""
    n = len(x) - 1

    def slope(u, y):
        share = (np.arange(n) + u) / n
        pull = rate * np.sqrt((1 - share) / math.sqrt(ratio) + share * math.sqrt(ratio))
        return np.concatenate([-pull * y[:n], 1 - 2 * pull * y[n:]])

    start = np.repeat([1.0, 0.0], n)
    decay, spread = integrate.solve_ivp(slope, (0, 1), start, rtol=1e-8, atol=1e-11).y[:, -1].reshape(2, n)
    rest, pull = x[1:] - decay * x[:-1], 1 - decay
    mu = (pull * rest / spread).sum() / (pull**2 / spread).sum()
    s2 = ((rest - mu * pull) ** 2 / spread).mean()
    return stats.norm.logpdf(rest, mu * pull, np.sqrt(s2 * spread)).sum(), mu, math.sqrt(s2)


@pytest.mark.parametrize("seed, a", [(3, 0.6), (4, 0.95)])
def test_the_fit_is_the_maximum_of_the_integrated_likelihood(seed, a):
    """On a grid whose rates are 13% and ratios 22% apart; the likelihood ratio is off by little, being flat there."""
    x = 5 + 2 * ar1(seed, (40,), a)
    fit = stability_fit(x)
    still = optimize.minimize_scalar(lambda k: -exact(x, math.exp(k), 1)[0], bounds=(-4, 2), options={"xatol": 1e-3})
    assert float(fit.rate) == pytest.approx(math.exp(still.x), rel=0.08)
    _, mu, s = exact(x, float(fit.rate), 1)
    assert float(fit.mean) == pytest.approx(mu) and float(fit.noise) == pytest.approx(s)
    start = [math.log(fit.rate), math.log(fit.ratio)]
    free = optimize.minimize(
        lambda p: -exact(x, math.exp(p[0]), math.exp(np.clip(p[1], -5, 5)))[0],
        start,
        method="Nelder-Mead",
        options={"maxfev": 40, "initial_simplex": [start, np.add(start, [0.3, 0]), np.add(start, [0, 0.5])]},
    )
    expected = math.sqrt(2 * max(0, still.fun - free.fun))
    assert abs(float(fit.statistic)) == pytest.approx(expected, abs=0.1)


def test_the_statistic_has_no_unit_and_stacks():
    x = ar1(5, (2, 3, 60))
    whole = stability_fit(x)
    assert whole.statistic.shape == (2, 3)
    assert float(whole.statistic[1, 2]) == pytest.approx(float(stability_fit(1e3 * x[1, 2] - 7e4).statistic), abs=1e-6)


def test_it_is_about_standard_normal_without_drift_and_positive_when_stability_falls():
    still = stability_fit(ar1(6, (300, 200))).statistic
    assert abs(still.mean()) < 0.3 and 0.8 < still.std() < 1.2
    falling = np.zeros((100, 300))
    z = np.random.default_rng(7).normal(size=falling.shape)
    for t in range(1, 300):
        a = math.exp(-math.sqrt(1 - 0.99 * t / 300))
        falling[:, t] = a * falling[:, t - 1] + z[:, t]
    fit = stability_fit(falling)
    assert fit.statistic.mean() > 2 and np.median(fit.ratio) < 0.3
    assert p_value(falling[0], 49) <= 0.04


def test_simulated_series_have_the_fitted_variance_and_rate():
    fit = stability_fit(10 + 3 * ar1(8, (400,), 0.8))
    made = simulate_stationary(fit, 50, 4000, np.random.default_rng(0))
    assert made.shape == (4000, 50)
    assert made.mean() == pytest.approx(float(fit.mean), abs=0.1)
    assert made.var() == pytest.approx(float(fit.noise**2 / (2 * fit.rate)), rel=0.05)
    with pytest.raises(BadInput):
        simulate_stationary(stability_fit(ar1(9, (2, 30))), 5, 5, np.random.default_rng(0))
