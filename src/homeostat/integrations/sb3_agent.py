"""Parts of a Stable-Baselines3 agent: its networks by name, its replay ratio, its scheduled learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

from torch import nn
from torch.optim import Optimizer

from homeostat.core.dial import Dial
from homeostat.shell.network import Network, scale_rate

FINEST = 100
"""Largest number of environment steps between two rounds of updates that a fractional replay ratio may lead to."""


@dataclass(frozen=True, eq=False)
class Trained:
    """One network of an agent.

    Args:
        name: name in the policy.
        module, optimizer: the network and its optimizer.
    """

    name: str
    module: nn.Module
    optimizer: Optimizer


def networks(agent: Any) -> tuple[list[Trained], dict[str, nn.Module]]:
    """The trained networks of an agent, and by name the networks that no optimizer trains (targets).

    Each optimizer belongs to the smallest part of the policy that has all of its parameters.
    """
    policy: nn.Module = agent.policy
    parts = dict(policy.named_children())
    inside = {**parts, "policy": policy}
    optimizers = {id(o): o for m in inside.values() for o in vars(m).values() if isinstance(o, Optimizer)}
    trained, held = [], set()
    for optimizer in optimizers.values():
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        held |= own
        whole = [(name, m) for name, m in inside.items() if own <= {id(p) for p in m.parameters()}]
        if whole:
            name, module = min(whole, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))
            trained.append(Trained(name, module, optimizer))
    ids = {name: {id(p) for p in module.parameters()} for name, module in parts.items()}
    return trained, {name: parts[name] for name, own in ids.items() if own and not own & held}


class ReplayRatio:
    """Gradient steps per environment step of an off-policy agent, by its own `gradient_steps` and `train_freq`.

    `train_freq` is kept if that gives an integer number of gradient steps. Otherwise the smallest fraction is used, so
    0.5 becomes one step every two. The agent keeps and saves the value.
    """

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    @classmethod
    def of(cls, agent: Any) -> Self | None:
        """The dial, or None for an agent without replay, or whose `train_freq` counts episodes."""
        unit = getattr(getattr(agent, "train_freq", None), "unit", None)
        replays = hasattr(agent, "gradient_steps") and hasattr(agent, "replay_buffer")
        return cls(agent) if replays and getattr(unit, "value", "") == "step" else None

    def dial(self) -> Dial:
        return Dial(self.get, self.set, low=1 / FINEST, high=float(FINEST), unit="gradient steps per environment step")

    def get(self) -> float:
        """The current ratio; -1 gradient steps mean one per environment step."""
        agent = self._agent
        return 1.0 if agent.gradient_steps < 0 else agent.gradient_steps / (agent.train_freq.frequency * agent.n_envs)

    def set(self, ratio: float) -> None:
        agent = self._agent
        frequency, per_round = agent.train_freq.frequency, ratio * agent.n_envs
        steps = Fraction(per_round * frequency).limit_denominator(1000)
        if steps.denominator != 1 or steps < 1:
            share = Fraction(per_round).limit_denominator(FINEST)
            steps, frequency = max(share.numerator, 1), share.denominator if share else FINEST
        agent.gradient_steps = int(steps)
        agent.train_freq = agent.train_freq._replace(frequency=frequency)


class ScheduledRate:
    """The learning rate of a network whose agent sets it from a schedule before every round of updates.

    The dial sets a factor on the scheduled rate. The factor is applied right before a step, if the agent has set the
    rate since the last step. An unchanged dial changes nothing.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self.factor = 1.0
        self._left: dict[tuple[int, int], float] = {}
        self._handles: list[Any] = []

    def dial(self) -> Dial:
        return Dial(self._network.learning_rate, self.turn, low=1e-12, unit="1/step")

    def turn(self, value: float) -> None:
        """Set the current rate; later scheduled rates are changed by the same factor."""
        scale = value / max(self._network.learning_rate(), 1e-30)
        self.factor *= scale
        for optimizer in self._network.optimizers:
            self._scale(optimizer, scale)
        if not self._handles:
            self._handles = [o.register_step_pre_hook(self._before) for o in self._network.optimizers]

    def remove(self) -> None:
        """Return the rate to the schedule."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        written = [self._left.get((id(optimizer), i)) != float(g["lr"]) for i, g in enumerate(optimizer.param_groups)]
        if any(written):
            self._scale(optimizer, self.factor)

    def _scale(self, optimizer: Optimizer, scale: float) -> None:
        for number, group in enumerate(optimizer.param_groups):
            scale_rate(group, scale)
            self._left[id(optimizer), number] = float(group["lr"])
