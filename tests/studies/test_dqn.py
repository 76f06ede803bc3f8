"""Deep Q-learning of several seeds at once."""

from __future__ import annotations

import pytest
import torch

from homeostat.studies.lab.dqn import QSettings, ReplayMemory, q_network, train_dqn
from homeostat.studies.lab.environments import CartPole


def test_an_agent_learns_what_it_learns_alone():
    quick = QSettings(q_network, warm_up=50, update_every=4, target_every=50, double=True)
    together, several = train_dqn(CartPole(), (5, 6, 7), 250, quick)
    alone, one = train_dqn(CartPole(), (6,), 250, quick)
    assert several.finished[1] == one.finished[0] and len(one.finished[0]) > 5
    theirs = alone.replica(0).state_dict()
    for name, tensor in together.replica(1).state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4)


def test_the_memory_keeps_the_last_transitions_and_draws_per_replica():
    memory = ReplayMemory(4, (1,), (0, 1), batch=200)
    for step in range(6):
        now = torch.tensor([float(step), step + 100.0])
        memory.add(now[:, None], torch.tensor([step, step]), now[:, None] + 1, now, torch.tensor([step == 5] * 2))
    before, action, after, reward, ended = memory.sample()
    assert sorted(set(action[0].tolist())) == [2, 3, 4, 5] and memory.size == 4
    assert torch.equal(before[1, :, 0], action[1] + 100.0) and torch.equal(after, before + 1)
    assert torch.equal(reward, before[..., 0]) and torch.equal(ended, (action == 5).float())
    assert not torch.equal(action[0], action[1])


@pytest.mark.thorough
def test_it_learns_to_balance_the_pole():
    _, episodes = train_dqn(CartPole(), range(6), 20_000)
    returns = episodes.mean_of_last(20)
    assert sorted(returns)[2] > 100 and min(len(each) for each in episodes.finished) > 20
