"""Soft actor-critic of several seeds at once."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from homeostat.studies.lab.environments import Pendulum
from homeostat.studies.lab.sac import SACSettings, drawn, train_sac


def test_an_agent_learns_what_it_learns_alone():
    quick = SACSettings(warm_up=150, update_every=5)
    together, several = train_sac(Pendulum(), (5, 6, 7), 200, quick)
    alone, one = train_sac(Pendulum(), (6,), 200, quick)
    assert [value for _, value in several.finished[1]] == pytest.approx([v for _, v in one.finished[0]], rel=1e-4)
    theirs = alone.replica(0).state_dict()
    for name, tensor in together.replica(1).state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4)


def test_the_density_of_an_action_is_that_of_a_squashed_normal():
    g = torch.Generator().manual_seed(0)
    mean, log_spread = torch.randn(2, 3, 2, generator=g), 0.3 * torch.randn(2, 3, 2, generator=g) - 1
    action, density = drawn((mean, log_spread), torch.rand(2, 3, 2, generator=g, dtype=torch.float64))
    theirs = TransformedDistribution(Normal(mean, log_spread.exp()), [TanhTransform(cache_size=1)])
    torch.testing.assert_close(density, theirs.log_prob(action).sum(-1), rtol=1e-3, atol=1e-3)


@pytest.mark.thorough
def test_it_learns_to_hold_the_pendulum():
    _, episodes = train_sac(Pendulum(), range(4), 4_000)
    assert sorted(episodes.mean_of_last(5))[1] > -400
