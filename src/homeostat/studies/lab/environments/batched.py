"""The contract of a batched environment, and the loop that steps and resets R of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

CHUNK = 1 << 15
"""Numbers of a replica that a pool draws at once, about."""


class UniformPool:
    """Uniform numbers in [0, 1) of R replicas, each from its own generator, drawn in chunks.

    Args:
        seeds: one per replica. Replica r gets the numbers of its seed whatever the other seeds are.
        shape: of one draw.
    """

    def __init__(self, seeds: Sequence[int], *shape: int) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._count = max(1, CHUNK // max(math.prod(shape), 64))
        self._shape, self._at = shape, self._count
        self._drawn = torch.empty(0)

    def next(self) -> Tensor:
        """The next draw of every replica, float64 [R, *shape]."""
        if self._at == self._count:
            each = [torch.rand(self._count, *self._shape, generator=g, dtype=torch.float64) for g in self._generators]
            self._drawn, self._at = torch.stack(each, 1), 0
        self._at += 1
        return self._drawn[self._at - 1]


class Environment:
    """The rules of an environment: pure functions on a batch of states.

    Class attributes:
        observation: shape of one observation.
        actions: number of discrete actions, or 0 if an action is a vector of `action_size` numbers in [-1, 1].
        limit: steps after which an episode is cut off.
        starts, chances: numbers of uniform draws that a start and a step take.
    """

    observation: ClassVar[tuple[int, ...]]
    actions: ClassVar[int] = 0
    action_size: ClassVar[int] = 0
    limit: ClassVar[int]
    starts: ClassVar[int]
    chances: ClassVar[int] = 0

    def start(self, draws: Tensor) -> Tensor:
        """First states [N, S], float64, from uniform draws [N, starts]."""
        raise NotImplementedError

    def advance(self, state: Tensor, action: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Next states [N, S], rewards [N] and whether the episode has ended [N].

        Args:
            state: [N, S].
            action: int64 [N], or [N, action_size].
            draws: [N, chances]; None without chances.
        """
        raise NotImplementedError

    def observe(self, state: Tensor) -> Tensor:
        """Observations [N, *observation], float32."""
        raise NotImplementedError


@dataclass(frozen=True)
class EnvironmentStep:
    """The result of a step of N environments.

    Args:
        observation: to act on next: of the new episode where one has ended, float32 [N, ...].
        reached: the observation that the action led to; it differs from `observation` where an episode has ended.
        reward: float32 [N].
        terminated: the episode ended by its rules, bool [N].
        truncated: it was cut off at its limit, bool [N].
        returns: the sum of rewards of the episode that has ended, NaN where none has, float64 [N].
    """

    observation: Tensor
    reached: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    returns: Tensor


class Environments:
    """R environments with the same rules. An episode that has ended begins anew at once.

    Args:
        rules: the environment.
        seeds: one per replica. Replica r is the environment of its seed alone.
    """

    def __init__(self, rules: Environment, seeds: Sequence[int]) -> None:
        self.rules, self.count = rules, len(seeds)
        self._starts = UniformPool(seeds, rules.starts)
        self._chances = UniformPool([seed + 2**32 for seed in seeds], rules.chances) if rules.chances else None
        self.state = rules.start(self._starts.next())
        self._age = torch.zeros(self.count, dtype=torch.int64)
        self._return = torch.zeros(self.count, dtype=torch.float64)

    @property
    def observation(self) -> Tensor:
        """The present observations, float32 [R, ...]."""
        return self.rules.observe(self.state)

    def step(self, action: Tensor) -> EnvironmentStep:
        """One step of every environment."""
        draws = None if self._chances is None else self._chances.next()
        state, reward, terminated = self.rules.advance(self.state, action, draws)
        self._age += 1
        self._return += reward
        truncated = (self._age >= self.rules.limit) & ~terminated
        ended = terminated | truncated
        reached = self.rules.observe(state)
        returns = torch.where(ended, self._return, math.nan)
        observation = reached
        fresh = self._starts.next()  # drawn at every step, so that replicas stay in step with their pools
        if bool(ended.any()):
            state = torch.where(ended.unsqueeze(-1), self.rules.start(fresh), state)
            observation = self.rules.observe(state)
            self._age.masked_fill_(ended, 0)
            self._return.masked_fill_(ended, 0.0)
        self.state = state
        return EnvironmentStep(observation, reached, reward.float(), terminated, truncated, returns)
