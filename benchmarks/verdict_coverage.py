"""How often the intervals of a sequential study all cover the true mean, and how many seeds it needs.

    python benchmarks/verdict_coverage.py [--studies 20000]

Prints the nominal error per look that gives 5% (2.5%) over all looks for normal effects, the coverage over all looks
for effects of several distributions, and what is decided after how many seeds for several true effects.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

from homeostat.studies.lab.sequential import ERROR, MOST, NOMINAL, looks

LOOKS = np.array(looks())
DRAWS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "skewed (exponential)": lambda rng, shape: rng.exponential(1.0, shape) - 1,
    "heavy-tailed (t, 3 degrees of freedom)": lambda rng, shape: rng.standard_t(3, shape),
    "two clusters (one seed in five differs by 3)": lambda rng, shape: (
        rng.standard_normal(shape) + 3 * (rng.random(shape) < 0.2) - 0.6
    ),
}


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and its standard error at every look: [studies, looks] each."""
    total, squares = (np.cumsum(v, 1)[:, LOOKS - 1] for v in (x, x * x))
    mean = total / LOOKS
    return mean, np.sqrt((squares - LOOKS * mean**2) / (LOOKS - 1) / LOOKS)


def smallest(x: np.ndarray) -> np.ndarray:
    """The smallest two-sided p value over the looks, for a true mean of 0."""
    mean, error = moments(x)
    return (2 * stats.t.sf(np.abs(mean / error), LOOKS - 1)).min(1)


def outcomes(x: np.ndarray, margin: float) -> dict[str, float]:
    """Shares of verdicts against the threshold 0, and the mean number of seeds."""
    mean, error = moments(x)
    reach = stats.t.ppf(1 - NOMINAL[1] / 2, LOOKS - 1) * error
    holds, fails = mean - reach > 0, mean + reach < 0
    decided = holds | fails
    first = np.where(decided.any(1), decided.argmax(1), len(LOOKS) - 1)
    at = (np.arange(len(x)), first)
    bounded = ~decided[at] & ((mean + reach)[:, -1] < margin)
    return {
        "holds": holds[at].mean(), "does not hold": fails[at].mean(), "no effect larger": bounded.mean(),
        "inconclusive": (~decided[at] & ~bounded).mean(), "seeds": LOOKS[first].mean(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=20_000)
    studies = parser.parse_args().studies
    rng = np.random.default_rng(0)
    lowest = np.sort(smallest(rng.standard_normal((studies, MOST))))
    for primaries, nominal in NOMINAL.items():
        found = lowest[round(studies * ERROR / primaries)]
        print(f"{ERROR / primaries:.1%} over {len(LOOKS)} looks: {found:.4f} per look (used: {nominal})")
    print("\neffects, coverage over all looks, at the first look alone")
    for name, draw in DRAWS.items():
        x = draw(rng, (studies, MOST))
        mean, error = moments(x)
        inside = np.abs(mean) <= stats.t.ppf(1 - NOMINAL[1] / 2, LOOKS - 1) * error
        print(f"{name}: {inside.all(1).mean():.1%}, {inside[:, 0].mean():.1%}")
    print("\ntrue effect in standard deviations over seeds (margin 0.5)")
    for effect in (-0.5, 0.0, 0.2, 0.3, 0.5, 1.0, 2.0):
        found = outcomes(rng.standard_normal((studies, MOST)) + effect, 0.5)
        print(
            f"{effect:+.1f}: " + ", ".join(f"{k} {v:.1f}" if k == "seeds" else f"{k} {v:.1%}" for k, v in found.items())
        )


if __name__ == "__main__":
    main()
