"""Two models of a series near an equilibrium, stationary and drifting, and a test between them.

Stationary:  dX = lambda (mu - X) dt + s dB                    (Ornstein-Uhlenbeck)
Drifting:    the same with lambda_t = 2 sqrt(r_t), r_t linear in time from r_0 at the first value to r_n at the last

r is the distance to a saddle-node bifurcation (x' = r - x^2 has the return rate 2 sqrt(r) at rest), so r_n < r_0 is an
approach, and the variance s^2 / (2 lambda_t) grows as r_t^(-1/2).

Source: Boettiger and Hastings (2012), arXiv:1210.1204, with the model of their "Quantifying limits to detection of
early warning for critical transitions" (2012), arXiv:1204.6231. Three differences. Their noise is s sqrt(theta +
sqrt(r_t)) and their mean theta + sqrt(r_t), which holds in one unit of X only; both are constant here (on windows of
the study `ews-prosecutor` the statistics of the two forms correlate with 0.94 to 1.00). Their r_t = r_0 + m t is
written as the ratio r_n / r_0, which has no unit. Their published R code lets the variance decay at 2 sqrt(r), the
rate of the mean; that of an Ornstein-Uhlenbeck process decays at twice the rate, as it does here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from homeostat.core.errors import BadInput
from homeostat.diagnosis.early_warning import Array

FEWEST = 20
_RATES = np.geomspace(2e-3, 8.0, 70)
_RATIOS = np.exp(np.linspace(-5.0, 5.0, 51))  # the one in the middle is 1: no drift


@dataclass(frozen=True)
class StabilityFit:
    """Both models, fitted by maximum likelihood. Arrays [*R].

    Args:
        statistic: signed root of the likelihood ratio, sign * sqrt(2 (log L_drifting - log L_stationary)); positive
            if stability falls. Nearly standard normal for a long stationary series; `p_value` does not assume this.
        ratio: r_n / r_0 of the drifting model: 1 no change, below 1 an approach to the tipping point (0.0067 to 148).
        rate: return rate lambda per sample of the stationary model (0.002 to 8).
        mean: mu of the stationary model.
        noise: s of the stationary model, per square root of a sample.
    """

    statistic: Array
    ratio: Array
    rate: Array
    mean: Array
    noise: Array


def stability_fit(values: Array) -> StabilityFit:
    """Fit both models to evenly sampled series [*R, n].

    Given the rates, mu and s have a closed form, so the likelihood is profiled on a grid of 70 return rates and 51
    ratios r_n / r_0, for all series at once. Between two samples the rate is taken at the middle. NaN for a series
    with fewer than 20 values, a constant one, or one with NaN in it.

    Cost: 70 * 51 * n * 4 multiplications a series, as matrix products.
    """
    x = np.asarray(values, dtype=np.float64)
    lead, flat = x.shape[:-1], x.reshape(-1, x.shape[-1])
    if flat.shape[1] < FEWEST:
        return StabilityFit(*(np.full(lead, np.nan),) * 5)
    centre, scale = flat.mean(-1), flat.std(-1)
    known = np.isfinite(scale) & (scale > 1e-12 * np.abs(centre))
    unit = (flat - centre[:, None]) / np.where(known, scale, np.nan)[:, None]
    found = _fitted(np.nan_to_num(unit))
    found = (*found[:3], centre + scale * found[3], scale * found[4])
    return StabilityFit(*(np.where(known, f, np.nan).reshape(lead) for f in found))


def _fitted(x: Array) -> tuple[Array, ...]:
    """Statistic, ratio, rate, mean and noise [R] of standardised series [R, n]."""
    likelihood, mean, noise = _profile(x)
    rows, level = np.arange(len(x)), _RATIOS.size // 2
    still = likelihood[:, :, level].argmax(-1)
    gain = likelihood.max((1, 2)) - likelihood[rows, still, level]
    ratio = _RATIOS[likelihood.max(1).argmax(-1)]
    statistic = np.sign(1 - ratio) * np.sqrt(2 * gain)
    return statistic, ratio, _RATES[still], mean[rows, still, level], noise[rows, still, level]


def _profile(x: Array) -> tuple[Array, Array, Array]:
    """Log likelihood, mu and s [R, rates, ratios] of standardised series [R, n], up to a constant."""
    before, after = x[:, :-1], x[:, 1:]
    steps = before.shape[1]
    lam = _rates(steps).reshape(-1, steps)
    a = np.exp(-lam)
    g, w = 1 - a, 2 * lam / -np.expm1(-2 * lam)
    wg2 = (w * g * g).sum(-1)
    wgy = after @ (w * g).T - before @ (w * g * a).T
    wyy = (after**2) @ w.T - 2 * (after * before) @ (w * a).T + (before**2) @ (w * a * a).T
    mean = wgy / wg2
    square = np.maximum(wyy - wgy * mean, 1e-300) / steps
    likelihood = 0.5 * (np.log(w).sum(-1) - steps * np.log(square))
    shape = (len(x), _RATES.size, _RATIOS.size)
    return likelihood.reshape(shape), mean.reshape(shape), np.sqrt(square).reshape(shape)


def _rates(steps: int) -> Array:
    """Return rates [rates, ratios, steps] at the middle of every interval. The grid's rate is their geometric mean over
    the two ends, so that approaches and retreats are tried alike."""
    share = (np.arange(steps) + 0.5) / steps
    r = (1 - share) / np.sqrt(_RATIOS)[:, None] + share * np.sqrt(_RATIOS)[:, None]
    return _RATES[:, None, None] * np.sqrt(r)


def simulate_stationary(fit: StabilityFit, length: int, count: int, generator: np.random.Generator) -> Array:
    """Series [count, length] of the stationary model of one fitted series, started from its stationary distribution.

    Raises:
        BadInput: several series were fitted, or the fit is missing.
    """
    if np.ndim(fit.rate) or not np.isfinite(fit.rate):
        raise BadInput("simulation needs the fit of one series that could be fitted")
    a, spread = float(np.exp(-fit.rate)), float(fit.noise / np.sqrt(2 * fit.rate))
    shocks = generator.normal(size=(length, count))
    x = np.empty((length, count))
    x[0] = shocks[0]
    for t in range(1, length):
        x[t] = a * x[t - 1] + np.sqrt(1 - a * a) * shocks[t]
    return float(fit.mean) + spread * x.T


def p_value(values: Array, draws: int = 199, seed: int = 0) -> float:
    """Share of series without drift whose statistic is at least as large as that of this series [n].

    A parametric bootstrap: `draws` series of the fitted stationary model are fitted too; the result is (1 + number of
    statistics at least as large) / (1 + draws). NaN if the series cannot be fitted. Small values are evidence of an
    approach to a tipping point, provided that the series was not selected because it collapsed.
    """
    fit = stability_fit(np.asarray(values, dtype=np.float64))
    if not np.isfinite(fit.statistic):
        return float("nan")
    made = simulate_stationary(fit, len(values), draws, np.random.default_rng(seed))
    return float((1 + (stability_fit(made).statistic >= fit.statistic).sum()) / (1 + draws))
