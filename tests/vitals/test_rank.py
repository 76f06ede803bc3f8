"""Ranks against scipy's singular values in float64."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from homeostat.core.snapshot import Readings
from homeostat.testing import inputs
from homeostat.vitals import EffectiveRank, SRank, StableRank, effective_rank, singular_values, srank, stable_rank
from homeostat.vitals.activations.rank import GRAM_WIDTH, MAX_ROWS


def oracle(matrix: np.ndarray, delta: float = 0.01) -> tuple[float, int, float]:
    """Effective rank, srank and stable rank from the definitions. The first two were compared with
    `compute_effective_rank` and `compute_abs_approximate_rank(prop=0.99)` of shibhansh/loss-of-plasticity: the same
    formulas (0 log 0 = 0; fewest largest singular values that reach the share)."""
    s = np.asarray(scipy.linalg.svdvals(matrix.astype(np.float64)))
    held, k = 0.0, 0
    while held < (1 - delta) * s.sum() * (1 - 1e-12):
        held, k = held + s[k], k + 1
    return float(np.exp(scipy.stats.entropy(s / s.sum()))), k, float((s**2).sum() / s.max() ** 2)


def matrix_of(seed: int, n: int, h: int, rank: int, decay: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = decay ** np.arange(rank)
    return (rng.normal(size=(n, rank)) * scale) @ rng.normal(size=(rank, h))


@pytest.mark.oracle("effective-rank", "srank", "stable-rank")
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 0.7, 0.3]))
def test_ranks_are_their_definitions(seed, n, h, rank, decay):
    matrix = matrix_of(seed, n, h, rank, decay)
    expected = oracle(matrix)
    given_ = torch.tensor(matrix)
    assert float(effective_rank(given_)) == pytest.approx(expected[0], rel=1e-4)
    assert float(srank(given_)) == expected[1]
    assert float(stable_rank(given_)) == pytest.approx(expected[2], rel=1e-6)
    assert 1 - 1e-9 <= float(stable_rank(given_)) <= min(n, h) + 1e-9
    assert 1 - 1e-9 <= float(effective_rank(given_)) <= min(n, h) + 1e-6


@pytest.mark.parametrize("shape", [(64, 512), (300, 40), (128, 128)])
def test_singular_values_by_gram_matrix_keep_seven_digits_of_the_largest(shape):
    matrix = torch.relu(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    exact = scipy.linalg.svdvals(matrix.double().numpy())
    np.testing.assert_allclose(singular_values(matrix).numpy(), exact, atol=1e-7 * exact[0])


def test_known_ranks():
    assert float(effective_rank(torch.eye(7))) == pytest.approx(7)
    assert float(srank(torch.eye(200))) == 198
    assert float(stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0])))) == pytest.approx(1.5)
    assert float(effective_rank(torch.ones(9, 4))) == pytest.approx(1)


@pytest.mark.parametrize("function", [effective_rank, srank, stable_rank])
def test_nothing_to_rank_is_missing(function):
    for matrix in (torch.zeros(5, 4), torch.zeros(0, 4), torch.zeros(4, 0), torch.full((4, 4), float("nan"))):
        assert math.isnan(float(function(matrix)))


@pytest.mark.parametrize("vital", [EffectiveRank(), SRank(), StableRank()], ids=lambda v: v.name)
@pytest.mark.parametrize("width", [GRAM_WIDTH, GRAM_WIDTH + 1])
def test_parts_make_the_whole_on_both_sides_of_the_width_limit(vital, width):
    h = torch.randn(90, width, generator=torch.Generator().manual_seed(width))
    parts = [vital.measure(Readings(activations={"a": part})) for part in (h[:7], h[7:60], h[60:])]
    joined = vital.combine(vital.combine(parts[0], parts[1]), parts[2])
    expected = oracle(h.numpy())[[EffectiveRank, SRank, StableRank].index(type(vital))]
    assert float(vital.finish(joined)["a"]) == pytest.approx(expected, rel=1e-6)


def test_a_wide_layer_is_ranked_on_its_first_rows():
    h = torch.randn(MAX_ROWS + 40, GRAM_WIDTH + 1, generator=torch.Generator().manual_seed(0))
    h[MAX_ROWS:] = 1e6
    vital = EffectiveRank()
    whole = vital(Readings(activations={"a": h}))["a"]
    assert float(whole) == pytest.approx(float(effective_rank(h[:MAX_ROWS])))
    cut = [vital.measure(Readings(activations={"a": part})) for part in (h[:1000], h[1000:])]
    assert torch.equal(vital.finish(vital.combine(*cut))["a"], whole)


def test_a_replica_that_is_nan_leaves_the_others_alone():
    steps = [inputs.readings(1), inputs.degenerate()["NaN"]]
    values = EffectiveRank()(inputs.stacked(steps))["fc1"]
    assert bool(values[0].isfinite()) and bool(values[1].isnan())
