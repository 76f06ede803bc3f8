"""Soft actor-critic of R seeds at once, one environment a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from homeostat.fleet import Fleet
from homeostat.studies.lab.dqn import Episodes, ReplayMemory, adam
from homeostat.studies.lab.environments import Environment, Environments, UniformPool

LOWEST, HIGHEST = -5.0, 2.0  # range of the logarithm of the policy's standard deviation


class Policy(nn.Module):
    """Two hidden layers of 64 units: mean and logarithm of the deviation of an action, each [B, A]."""

    def __init__(self, observation: tuple[int, ...], size: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(observation[0], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.mean, self.spread = nn.Linear(64, size), nn.Linear(64, size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.hidden(x)
        return self.mean(h), LOWEST + 0.5 * (HIGHEST - LOWEST) * (torch.tanh(self.spread(h)) + 1)


class TwoCritics(nn.Module):
    """Two networks that value an observation [B, O] and an action [B, A]: both values [B, 2]."""

    def __init__(self, observation: tuple[int, ...], size: int) -> None:
        super().__init__()
        self.first, self.second = (_critic(observation[0] + size) for _ in range(2))

    def forward(self, x: Tensor, action: Tensor) -> Tensor:
        given = torch.cat([x, action], -1)
        return torch.cat([self.first(given), self.second(given)], -1)


def _critic(inputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))


@dataclass(frozen=True)
class SACSettings:
    """Settings; the defaults are our choice for Pendulum.

    Args:
        policy, critics, optimizer: make the networks, from the shape of an observation and the size of an action.
        rate: learning rate of the weight of the entropy.
        discount: of future rewards.
        share: how far the target critics move towards the critics after each update.
        capacity, batch: transitions in the memory of a replica, and of an update.
        warm_up: first steps, with uniform actions and without updates.
        update_every: steps between two updates.
        scale: factor on rewards.
    """

    policy: Callable[[tuple[int, ...], int], nn.Module] = Policy
    critics: Callable[[tuple[int, ...], int], nn.Module] = TwoCritics
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = adam
    rate: float = 1e-3
    discount: float = 0.99
    share: float = 0.01
    capacity: int = 20_000
    batch: int = 64
    warm_up: int = 500
    update_every: int = 1
    scale: float = 0.1


def train_sac(
    rules: Environment, seeds: Sequence[int], steps: int, settings: SACSettings | None = None, **fleet: Any
) -> tuple[Fleet, Episodes]:
    """Train one agent per seed in an environment whose actions are vectors in [-1, 1].

    The entropy's weight is adapted so that the entropy is minus the size of an action.

    Args:
        steps: environment steps of each agent.
        fleet: further arguments of the policies' `Fleet`.

    Returns: the trained policies and their episodes.

    Source: Haarnoja et al. (2018), arXiv:1812.05905.
    """
    s, size = settings or SACSettings(), rules.action_size
    policies = Fleet(
        partial(s.policy, rules.observation, size), optimizer=s.optimizer, seeds=seeds, **{"vitals": (), **fleet}
    )
    critics = Fleet(
        partial(s.critics, rules.observation, size),
        optimizer=s.optimizer,
        seeds=[seed + 2**32 for seed in seeds],
        vitals=(),
    )
    world, target = Environments(rules, seeds), critics.frozen()
    memory = ReplayMemory(s.capacity, rules.observation, [seed + 2**33 for seed in seeds], s.batch, (size,))
    acting = UniformPool([seed + 2**34 for seed in seeds], 1, size)
    learning = UniformPool([seed + 2**35 for seed in seeds], 2, s.batch, size)
    log_weight = torch.zeros(len(seeds), requires_grad=True)
    tuner, episodes = torch.optim.Adam([log_weight], lr=s.rate), Episodes([[] for _ in seeds])
    observation = world.observation
    for step in range(1, steps + 1):
        chance = acting.next()
        with torch.no_grad():
            action = (
                chance.float() * 2 - 1 if step <= s.warm_up else drawn(policies(observation.unsqueeze(1)), chance)[0]
            )
        outcome = world.step(action[:, 0])
        memory.add(observation, action[:, 0], outcome.reached, s.scale * outcome.reward, outcome.terminated)
        observation = outcome.observation
        if bool((outcome.terminated | outcome.truncated).any()):
            episodes.add(step, outcome.returns)
        if step <= s.warm_up or step % s.update_every:
            continue
        (before, taken, after, reward, ended), (first, second) = memory.sample(), learning.next().unbind(1)
        weight = log_weight.detach().exp().unsqueeze(1)
        with torch.no_grad():
            following, chance_of_it = drawn(policies(after), first)
            worth = target(after, following).amin(-1) - weight * chance_of_it
            goal = reward + s.discount * worth * (1 - ended)
        critics.learn((critics(before, taken) - goal.unsqueeze(-1)).square().mean(1).sum(-1))
        action, chance_of_it = drawn(policies(before), second)
        policies.learn((weight * chance_of_it - critics.detached(before, action).amin(-1)).mean(1))
        tuner.zero_grad()
        (-log_weight.exp() * (chance_of_it.detach().mean(1) - size)).sum().backward()
        tuner.step()
        target.update(s.share)
    return policies, episodes


def drawn(policy: tuple[Tensor, Tensor], chances: Tensor) -> tuple[Tensor, Tensor]:
    """Actions tanh(mean + deviation * normal) [R, B, A], and the logarithms of their densities [R, B].

    Args:
        policy: means and logarithms of standard deviations [R, B, A].
        chances: uniform numbers [R, B, A] that become the normal ones.
    """
    mean, log_spread = policy
    normal = torch.special.ndtri(chances.clamp(1e-9, 1 - 1e-9)).float()
    action = torch.tanh(mean + log_spread.exp() * normal)
    density = -0.5 * normal.square() - log_spread - 0.5 * math.log(2 * math.pi) - (1 - action.square() + 1e-6).log()
    return action, density.sum(-1)
