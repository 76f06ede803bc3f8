"""Distance, barrier and similarity of two networks, against slow restatements and the authors' code."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from homeostat.core.snapshot import Readings, Twin
from homeostat.testing import inputs
from homeostat.vitals import TwinBarrier, TwinDistance, distance, linear_cka, loss_barrier, mixed


def pair(seed):
    step = inputs.readings(seed, dtype=torch.float64)
    return step.twin, step.initial


@pytest.mark.oracle("twin-distance")
@pytest.mark.parametrize("seed", range(3))
def test_the_distance_is_the_root_of_the_summed_squares(seed):
    twin, initial = pair(seed)
    numbers = lambda named: [float(v) for t in named.values() for v in t.flatten()]  # noqa: E731
    apart = math.sqrt(sum((a - b) ** 2 for a, b in zip(numbers(twin.own), numbers(twin.other), strict=True)))
    norm = math.sqrt(sum(w**2 for w in numbers(initial)))
    assert float(distance(twin.own, twin.other)) == pytest.approx(apart, rel=1e-12)
    found = TwinDistance()(Readings(twin=twin, initial=initial))["network"]
    assert float(found) == pytest.approx(apart / norm, rel=1e-12)


@pytest.mark.oracle("twin-barrier")
@pytest.mark.parametrize("seed", range(3))
def test_the_barrier_is_the_largest_excess_over_the_line_between_the_ends(seed):
    """Run aside on five pairs of trained 8-16-3 networks, the authors' `interpolate_models` and `barrier_from_df` gave
    barriers of 0.82 to 2.36 that differ from `loss_barrier` by 2.4e-7 at most.
    """
    twin, _ = pair(seed)
    way = twin.along
    excess = []
    for k in range(11):
        a = k / 10
        p = {n: (a * w.numpy() + (1 - a) * twin.other[n].numpy()) for n, w in twin.own.items()}
        excess.append(slow_loss(p, way.x.double().numpy()))
    expected = max(e - (k / 10 * excess[-1] + (1 - k / 10) * excess[0]) for k, e in enumerate(excess))
    assert float(TwinBarrier()(Readings(twin=twin))["network"]) == pytest.approx(expected, abs=1e-6)


def slow_loss(p, x):
    """Mean log-sum-exp of the outputs of 6 -> ReLU -> tanh -> 3, item by item."""
    total = 0.0
    for item in x:
        hidden = np.maximum(p["fc1.weight"] @ item + p["fc1.bias"], 0)
        hidden = np.tanh(p["fc2.weight"] @ hidden + p["fc2.bias"])
        total += math.log(np.exp(p["head.weight"] @ hidden + p["head.bias"]).sum())
    return total / len(x)


def test_the_barrier_of_known_curves():
    along = lambda height, tilt: lambda a: height * 4 * a * (1 - a) + tilt * a  # noqa: E731
    assert float(loss_barrier(along(2.0, 0.0))) == pytest.approx(2.0)
    assert float(loss_barrier(along(2.0, 5.0))) == pytest.approx(2.0), "a tilted line is no barrier"
    assert float(loss_barrier(along(-2.0, 3.0))) == 0, "a valley is none either"
    assert math.isnan(float(loss_barrier(lambda a: a / 0 * 0)))


@given(st.floats(0, 1), st.integers(0, 9))
def test_between_equal_networks_nothing_moves(share, seed):
    own = inputs.readings(seed).weights
    assert all(torch.equal(value, own[n]) for n, value in mixed(own, own, share).items())


def test_both_ends_are_exact_and_counters_stay():
    twin, _ = pair(0)
    own = {**twin.own, "count": torch.tensor(3)}
    other = {**twin.other, "count": torch.tensor(7)}
    assert all(torch.equal(value, own[n]) for n, value in mixed(own, other, 1.0).items())
    assert all(torch.equal(value, twin.other[n]) for n, value in mixed(twin.own, twin.other, 0.0).items())


def test_an_exact_clone_is_at_zero_and_behind_no_barrier():
    step = inputs.readings()
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    own, copied = step.weights, dict(step.weights)
    clone = Twin(own, copied, lambda share: (x @ mixed(own, copied, share)["fc1.weight"].T).square().mean())
    assert float(TwinDistance()(Readings(twin=clone, initial=step.initial))["network"]) == 0
    assert float(TwinBarrier()(Readings(twin=clone))["network"]) == 0


@pytest.mark.parametrize("widths", [(5, 5), (3, 7)])
def test_similarity_is_that_of_the_centred_kernels(widths):
    """Against HSIC of the N x N kernel matrices (Kornblith et al., eq. 3), which is how the authors' library has it."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(12, w, generator=generator, dtype=torch.float64) for w in widths)
    centre = np.eye(12) - 1 / 12
    k, m = (centre @ (h.numpy() @ h.numpy().T) @ centre for h in (x, y))
    expected = (k * m).sum() / math.sqrt((k * k).sum() * (m * m).sum())
    assert float(linear_cka(x, y)) == pytest.approx(expected, rel=1e-10)
    stacked = linear_cka(torch.stack([x, 2 * x]), torch.stack([y, y + 1]))
    assert stacked.tolist() == pytest.approx([expected] * 2)


def test_similarity_knows_rotations_and_says_when_it_knows_nothing():
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1))).Q
    assert float(linear_cka(x, 3 * x @ turn + 2)) == pytest.approx(1)
    for unknown in (torch.ones(30, 6), x[:1], x * float("nan")):
        assert math.isnan(float(linear_cka(x[: len(unknown)], unknown)))
