"""Proximal policy optimization of R seeds at once, several environments a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from homeostat.fleet import Fleet
from homeostat.studies.lab.dqn import Episodes
from homeostat.studies.lab.environments import Environment, Environments, UniformPool


class ActorCritic(nn.Module):
    """Two networks of two hidden layers of 64 tanh units: logits [B, A] and values [B]."""

    def __init__(self, observation: tuple[int, ...], actions: int) -> None:
        super().__init__()
        self.actor, self.critic = _layers(observation[0], actions, 0.01), _layers(observation[0], 1, 1.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(x), self.critic(x).squeeze(-1)


def _layers(inputs: int, outputs: int, last_gain: float) -> nn.Sequential:
    linear = [nn.Linear(inputs, 64), nn.Linear(64, 64), nn.Linear(64, outputs)]
    for layer, gain in zip(linear, (2**0.5, 2**0.5, last_gain), strict=True):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(linear[0], nn.Tanh(), linear[1], nn.Tanh(), linear[2])


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with epsilon 1e-5; the learning rate is set by the schedule."""
    return torch.optim.Adam(parameters, eps=1e-5)


@dataclass(frozen=True)
class PPOSettings:
    """Settings; the defaults are those of CleanRL's PPO on classic control.

    Args:
        network: makes a network that gives logits and values.
        rate: learning rate, which falls linearly to 0.
        environments: of each seed.
        length: steps of a rollout.
        epochs, parts: passes through a rollout, and minibatches of each.
        discount, decay: of rewards, and of the advantage estimate (lambda).
        clip: range of the probability ratio.
        entropy, value: weights of entropy and value loss.
        clip_norm: largest norm of the gradients.
    """

    network: Callable[[tuple[int, ...], int], nn.Module] = ActorCritic
    optimizer: Callable[..., torch.optim.Optimizer] = adam
    rate: float = 2.5e-4
    environments: int = 4
    length: int = 128
    epochs: int = 4
    parts: int = 4
    discount: float = 0.99
    decay: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    value: float = 0.5
    clip_norm: float = 0.5


def train_ppo(
    rules: Environment, seeds: Sequence[int], steps: int, settings: PPOSettings | None = None, **fleet: Any
) -> tuple[Fleet, Episodes]:
    """Train one agent per seed, for `steps` environment steps each (of all its environments together).

    Args:
        rules: an environment with discrete actions.
        fleet: further arguments of `Fleet`.

    Returns: the trained agents and their episodes.

    Source: Schulman, Wolski, Dhariwal, Radford and Klimov (2017), arXiv:1707.06347.
    """
    s = settings or PPOSettings()
    make = partial(s.network, rules.observation, rules.actions)
    kind = {"vitals": (), "clip_norm": s.clip_norm, **fleet}
    agents, lead = Fleet(make, optimizer=s.optimizer, seeds=seeds, **kind), (len(seeds), s.environments)
    world = Environments(rules, [seed * s.environments + e for seed in seeds for e in range(s.environments)])
    chances = UniformPool([seed + 2**33 for seed in seeds], s.environments)
    orders = UniformPool([seed + 2**34 for seed in seeds], s.length * s.environments)
    episodes = Episodes([[] for _ in seeds])
    observation = world.observation.unflatten(0, lead)
    updates = steps // (s.length * s.environments)
    for update in range(updates):
        agents.turn("lr", s.rate * (1 - update / updates))
        kept: dict[str, list[Tensor]] = {k: [] for k in ("seen", "action", "old", "value", "reward", "ended")}
        for at in range(s.length):
            with torch.no_grad():
                logits, value = agents(observation)
            cumulative = logits.softmax(-1).cumsum(-1)
            action = (cumulative[..., :-1] < chances.next().float().unsqueeze(-1)).sum(-1)
            outcome = world.step(action.flatten())
            ended = (outcome.terminated | outcome.truncated).unflatten(0, lead)
            old = logits.log_softmax(-1).gather(-1, action.unsqueeze(-1))[..., 0]
            rows = (observation, action, old, value, outcome.reward.unflatten(0, lead), ended.float())
            for key, row in zip(kept, rows, strict=True):
                kept[key].append(row)
            observation = outcome.observation.unflatten(0, lead)
            if bool(ended.any()):
                for column in outcome.returns.unflatten(0, lead).unbind(1):
                    episodes.add((update * s.length + at + 1) * s.environments, column)
        with torch.no_grad():
            last = agents(observation)[1]
        advantage = estimated(kept["reward"], kept["value"], kept["ended"], last, s.discount, s.decay)
        goals = [gain + value for gain, value in zip(advantage, kept["value"], strict=True)]
        columns = (kept["seen"], kept["action"], kept["old"], advantage, goals)
        batch = [torch.stack(column).transpose(0, 1).flatten(1, 2) for column in columns]  # [R, T * E, ...]
        for _ in range(s.epochs):
            for picks in orders.next().argsort(-1).chunk(s.parts, -1):
                part = [each[torch.arange(len(seeds)).unsqueeze(1), picks] for each in batch]
                agents.learn(losses(agents, s, *part))
    return agents, episodes


def estimated(
    rewards: list[Tensor], values: list[Tensor], ended: list[Tensor], last: Tensor, discount: float, decay: float
) -> list[Tensor]:
    """Generalised advantage estimates; what follows the end of an episode counts nothing."""
    found, ahead, following = list[Tensor](), torch.zeros_like(last), last
    for reward, value, over in zip(reversed(rewards), reversed(values), reversed(ended), strict=True):
        error = reward + discount * following * (1 - over) - value
        ahead = error + discount * decay * (1 - over) * ahead
        following = value
        found.append(ahead)
    return found[::-1]


def losses(
    agents: Fleet, s: PPOSettings, seen: Tensor, action: Tensor, old: Tensor, advantage: Tensor, goal: Tensor
) -> Tensor:
    """The clipped objective of each replica [R] on a minibatch [R, B, ...]."""
    logits, value = agents(seen)
    every = logits.log_softmax(-1)
    ratio = (every.gather(-1, action.unsqueeze(-1))[..., 0] - old).exp()
    scaled = (advantage - advantage.mean(1, keepdim=True)) / (advantage.std(1, keepdim=True) + 1e-8)
    gain = torch.minimum(ratio * scaled, ratio.clamp(1 - s.clip, 1 + s.clip) * scaled).mean(1)
    entropy = -(every.exp() * every).sum(-1).mean(1)
    return s.value * 0.5 * (value - goal).square().mean(1) - gain - s.entropy * entropy
