"""Proximal policy optimization of several seeds at once."""

from __future__ import annotations

import pytest
import torch

from homeostat.studies.lab.environments import CartPole
from homeostat.studies.lab.ppo import PPOSettings, estimated, train_ppo


def test_an_agent_learns_what_it_learns_alone():
    quick = PPOSettings(environments=2, length=32, epochs=2, parts=2)
    together, several = train_ppo(CartPole(), (5, 6, 7), 384, quick)
    alone, one = train_ppo(CartPole(), (6,), 384, quick)
    assert several.finished[1] == one.finished[0] and len(one.finished[0]) > 3
    theirs = alone.replica(0).state_dict()
    for name, tensor in together.replica(1).state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4)


def test_advantages_are_discounted_sums_of_errors_up_to_the_end_of_the_episode():
    g = torch.Generator().manual_seed(0)
    steps, discount, decay = 7, 0.9, 0.8
    rewards, values = (list(torch.randn(steps, 2, 3, generator=g, dtype=torch.float64)) for _ in range(2))
    ended = list((torch.rand(steps, 2, 3, generator=g) < 0.3).double())
    last = torch.randn(2, 3, generator=g, dtype=torch.float64)
    found = estimated(rewards, values, ended, last, discount, decay)
    for at in range(steps):
        expected, weight = torch.zeros_like(last), torch.ones_like(last)
        for t in range(at, steps):
            after = last if t == steps - 1 else values[t + 1]
            expected += weight * (rewards[t] + discount * after * (1 - ended[t]) - values[t])
            weight = weight * discount * decay * (1 - ended[t])
        torch.testing.assert_close(found[at], expected)


@pytest.mark.slow
def test_it_learns_to_balance_the_pole():
    _, episodes = train_ppo(CartPole(), range(4), 40_960)
    assert min(episodes.mean_of_last(20)) > 100
