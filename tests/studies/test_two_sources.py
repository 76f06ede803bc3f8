"""The race of two sources: the equation against restatements, and the networks that run it against autograd.

Against the authors' code (github.com/mjkleinman/CriticalPeriodDeepLinearNets, k_trajectory of
multipath/analytical_and_sgd_final.py, run aside): Euler steps of 0.001 in p = a^(1/D), no noise, depth 4, s = 2, a =
b = 0.01 at first, time 20. Source B shut for 0.5: theirs (1.863, 0.137), ours (1.865, 0.135); for 1.5: (1.977, 0.023)
and (1.977, 0.023); never: (1, 1) both. Shut from 15 to 16 they differ, (1, 1) and (1.279, 0.721): their path is
frozen, but its output stays, so a late deficit changes nothing; here its input is zero, and path A learns to do
without it.
"""

import numpy as np
import pytest
import torch
from scipy import integrate

from homeostat.studies.lab.two_sources import Problem, descend, learning_time, race
from homeostat.studies.papers.dynamics.critical_periods_linear import (
    DEPTHS,
    CriticalPeriodsLinearStudy,
    HalfNet,
    half_share,
)


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_race_is_gradient_flow_of_scalar_paths(depth):
    """Each path a product of D equal scalar weights p: dp/dt = -dL/dp of L = E(s z - a x_A - b x_B)^2 / 2."""
    s, nu, start, deficit, end = 0.7, 0.3, 0.05, (1.0, 3.0), 9.0

    def slope(t, p):
        a, b = p[0] ** depth, p[1] ** depth
        m = 0.0 if deficit[0] <= t < deficit[1] else 1.0
        da, db = -(s - a - m * b) + nu * a, m * (-(s - a - b) + nu * b)
        return [-da * p[0] ** (depth - 1), -db * p[1] ** (depth - 1)]

    p = np.full(2, start ** (1 / depth))
    for begin, until in ((0.0, 1.0), (1.0, 3.0), (3.0, end)):
        p = integrate.solve_ivp(lambda t, y, m=begin: slope(m + 1e-9, y), (begin, until), p, rtol=1e-9).y[:, -1]
    assert race(depth, s, nu, start, deficit, end) == pytest.approx(tuple(p**depth), rel=1e-5)


def test_depth_2_without_noise_is_the_logistic_curve():
    """a = b without deficit: d(2a)/dt = 2 (2a) (s - 2a), solved in closed form."""
    s, start, end = 1.5, 0.01, 2.0
    u0 = 2 * start
    u = s / (1 + (s / u0 - 1) * np.exp(-2 * s * end))
    assert race(2, s, 0.0, start, (0, 0), end) == pytest.approx((u / 2, u / 2), rel=1e-5)
    half = np.log((s / u0 - 1) / (s / (s / 2) - 1)) / (2 * s)
    assert learning_time(2, s, 0.0, start) == pytest.approx(half, rel=0.02)


def test_with_noise_the_only_optimum_is_the_even_split():
    assert race(1, 0.6, 0.5, 0.01, (0.0, 5.0), 60.0) == pytest.approx((0.24, 0.24), rel=1e-4)
    a, b = race(4, 0.6, 0.5, 0.01, (0.0, 40.0), 44.0)
    assert b < 0.05 < a


def reference(problem, depth, starts, deficit, end, rate, generator):
    """The same network trained with autograd on the loss itself, in float64."""
    t = lambda x: torch.tensor(np.asarray(x), dtype=torch.float64)  # noqa: E731
    paths = []
    for right in (problem.right_a, problem.right_b):
        bases = [np.linalg.qr(generator.normal(size=(5, len(starts))))[0] for _ in range(depth - 1)]
        share = np.diag(starts ** (1 / depth))
        ends = zip([*bases, problem.left], [right, *bases], strict=True)
        paths.append([t(out @ share @ into.T).requires_grad_() for out, into in ends])

    def product(path):
        whole = path[0]
        for w in path[1:]:
            whole = w @ whole
        return whole

    weights = [*paths[0], *paths[1]]
    for step in range(round(end / rate)):
        m = 0.0 if round(deficit[0] / rate) <= step < round(deficit[1] / rate) else 1.0
        a, b = product(paths[0]), m * product(paths[1])
        loss = torch.trace(a @ t(problem.aa) @ a.T + b @ t(problem.bb) @ b.T + 2 * a @ t(problem.ab) @ b.T) / 2
        loss = loss - torch.trace(a @ t(problem.ya).T + b @ t(problem.yb).T)
        for w, g in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            w.data -= rate * g
    sides = ((paths[0], problem.right_a), (paths[1], problem.right_b))
    return np.stack([np.diag(problem.left.T @ product(p).detach().numpy() @ r) for p, r in sides])


@pytest.mark.parametrize("depth", DEPTHS)
def test_descent_is_autograd_on_the_loss(depth):
    problem = Problem.draw((0.6, 0.4), 0.5, 100, 4, 3, np.random.default_rng(1))
    starts, deficits, ends = np.array([0.1, 0.12]), [(0.0, 0.0), (0.0, 1.0), (2.0, 3.0)], [5.0, 4.0, 5.0]
    found = descend(problem, depth, 5, starts, deficits, ends, 0.1, np.random.default_rng(2))
    for i, (deficit, end) in enumerate(zip(deficits, ends, strict=True)):
        expected = reference(problem, depth, starts, deficit, end, 0.1, np.random.default_rng(2))
        assert found[i] == pytest.approx(expected, rel=1e-9)


def test_moments_are_those_of_the_sources():
    p = Problem.draw((0.6, 0.4), 0.5, 200_000, 4, 3, np.random.default_rng(3))
    assert p.aa == pytest.approx(p.right_a @ p.right_a.T + 0.5 * np.eye(4), abs=0.02)
    assert p.ab == pytest.approx(p.right_a @ p.right_b.T, abs=0.02)
    assert p.yb == pytest.approx(p.left @ np.diag(p.strengths) @ p.right_b.T, abs=0.02)


def test_the_protocol_gives_all_the_same_time_to_recover():
    study = CriticalPeriodsLinearStudy()
    for depth in DEPTHS:
        deficits, ends = study.protocol(depth, 1e-3)
        rest = {round(end - until, 6) for (_, until), end in zip(deficits, ends, strict=True)}
        assert len(deficits) == 14 and len(rest) == 1
    assert study.protocol(1, 1e-3)[0][6][1] == study.protocol(4, 1e-3)[0][6][1]


def test_a_half_that_was_never_shown_has_no_share():
    torch.manual_seed(0)
    halves, labels = [torch.rand(128, 6), torch.rand(128, 6)], torch.arange(128) % 3
    shown, hidden = (half_share(halves, labels, (0, until), 20, 0) for until in (0, 20))
    assert 0.2 < shown < 0.8 and hidden < shown
    assert HalfNet(6, 3)(*halves).shape == (128, 3)
