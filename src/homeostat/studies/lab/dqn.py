"""Deep Q-learning of R seeds at once, one environment a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from homeostat.fleet import Fleet
from homeostat.studies.lab.environments import Environment, Environments, UniformPool


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with a learning rate of 1e-3."""
    return torch.optim.Adam(parameters, lr=1e-3)


@dataclass(frozen=True)
class QSettings:
    """Settings of deep Q-learning. The defaults are our choice for CartPole in 30,000 steps.

    Args:
        network: makes the network from the shape of an observation and the number of actions.
        optimizer: makes its optimizer.
        discount: of future rewards.
        capacity: transitions in the replay memory of a replica.
        batch: transitions of an update.
        warm_up: steps before the first update.
        update_every: steps between two updates.
        target_every: steps between two copies of the network into the target network.
        explore: probability of a random action at the end of the exploration; it falls from 1 linearly.
        explore_share: share of the steps over which it falls.
        double: actions for the target are chosen by the network, not by the target network.
    """

    network: Callable[[tuple[int, ...], int], nn.Module]
    optimizer: Callable[..., torch.optim.Optimizer] = adam
    discount: float = 0.99
    capacity: int = 10_000
    batch: int = 64
    warm_up: int = 1_000
    update_every: int = 2
    target_every: int = 200
    explore: float = 0.05
    explore_share: float = 0.2
    double: bool = False


def q_network(observation: tuple[int, ...], actions: int) -> nn.Module:
    """Two hidden layers of 120 and 84 units, as in CleanRL."""
    hidden = (nn.Linear(observation[0], 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU())
    return nn.Sequential(*hidden, nn.Linear(84, actions))


@dataclass
class Episodes:
    """Finished episodes of each replica: (step at its end, sum of rewards)."""

    finished: list[list[tuple[int, float]]] = field(default_factory=list)

    def add(self, step: int, returns: Tensor) -> None:
        """Add the episodes [R] that ended at this step; NaN where none did."""
        for replica, value in enumerate(returns.tolist()):
            if value == value:
                self.finished[replica].append((step, value))

    def mean_of_last(self, count: int) -> list[float]:
        """Mean return of the last episodes of each replica; NaN without any."""
        rows = [[value for _, value in each[-count:]] for each in self.finished]
        return [sum(row) / len(row) if row else float("nan") for row in rows]


class ReplayMemory:
    """The last transitions of R replicas, and batches from each one's stream; `action` is the shape of an action."""

    def __init__(
        self, capacity: int, shape: tuple[int, ...], seeds: Sequence[int], batch: int, action: tuple[int, ...] = ()
    ) -> None:
        lead = (len(seeds), capacity)
        self.before, self.after = torch.zeros(*lead, *shape), torch.zeros(*lead, *shape)
        self.action = torch.zeros(*lead, *action, dtype=torch.float32 if action else torch.int64)
        self.reward, self.ended = torch.zeros(lead), torch.zeros(lead)
        self.size = self._at = 0
        self._capacity, self._pool = capacity, UniformPool(seeds, batch)
        self._rows = torch.arange(len(seeds)).unsqueeze(1)

    def add(self, before: Tensor, action: Tensor, after: Tensor, reward: Tensor, ended: Tensor) -> None:
        """Store one transition of every replica [R, ...]; `ended` says that nothing follows it."""
        at = self._at
        self.before[:, at], self.after[:, at], self.action[:, at] = before, after, action
        self.reward[:, at], self.ended[:, at] = reward, ended.float()
        self._at = (at + 1) % self._capacity
        self.size = min(self.size + 1, self._capacity)

    def sample(self) -> tuple[Tensor, ...]:
        """Transitions [R, B, ...]: before, action, after, reward, ended."""
        picks = (self._rows, (self._pool.next() * self.size).long())
        return tuple(each[picks] for each in (self.before, self.action, self.after, self.reward, self.ended))


def train_dqn(
    rules: Environment, seeds: Sequence[int], steps: int, settings: QSettings | None = None, **fleet: Any
) -> tuple[Fleet, Episodes]:
    """Train one agent per seed. The agent of a seed does not depend on the other seeds, but for rounding.

    Args:
        rules: an environment with discrete actions.
        steps: environment steps of each agent.
        fleet: further arguments of `Fleet`: treatments, vitals, knobs.

    Returns: the trained agents and their episodes.

    Source: Mnih et al. (2015), Nature 518; with `double` van Hasselt, Guez and Silver (2016), arXiv:1509.06461.
    """
    s = settings or QSettings(q_network)
    make = partial(s.network, rules.observation, rules.actions)
    agents = Fleet(make, optimizer=s.optimizer, seeds=seeds, **{"vitals": (), **fleet})
    world, target = Environments(rules, seeds), agents.frozen()
    memory = ReplayMemory(s.capacity, rules.observation, [seed + 2**33 for seed in seeds], s.batch)
    chances = UniformPool([seed + 2**34 for seed in seeds], 2)
    episodes = Episodes([[] for _ in seeds])
    observation = world.observation
    for step in range(1, steps + 1):
        explore = max(s.explore, 1 - (1 - s.explore) * step / (s.explore_share * steps))
        chance, which = chances.next().unbind(-1)
        with torch.no_grad():
            greedy = agents(observation.unsqueeze(1))[:, 0].argmax(-1)
        action = torch.where(chance < explore, (which * rules.actions).long(), greedy)
        outcome = world.step(action)
        memory.add(observation, action, outcome.reached, outcome.reward, outcome.terminated)
        observation = outcome.observation
        if bool((outcome.terminated | outcome.truncated).any()):
            episodes.add(step, outcome.returns)
        if step > s.warm_up and step % s.update_every == 0:
            before, taken, after, reward, ended = memory.sample()
            values = target(after)
            best = values.amax(-1)
            if s.double:
                with torch.no_grad():
                    best = values.gather(-1, agents(after).argmax(-1, keepdim=True))[..., 0]
            goal = reward + s.discount * best * (1 - ended)
            said = agents(before).gather(-1, taken.unsqueeze(-1))[..., 0]
            agents.learn((said - goal).square().mean(1))
        if step % s.target_every == 0:
            target.update()
    return agents, episodes
