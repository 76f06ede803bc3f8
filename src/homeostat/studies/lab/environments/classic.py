"""CartPole, Acrobot, MountainCar and Pendulum, as in Gymnasium, with float64 states and float32 observations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from homeostat.studies.lab.environments.batched import Environment


class CartPole(Environment):
    """`CartPole-v1`: balance a pole on a cart; reward 1 a step, at most 500 steps. State x, dx, angle, its rate."""

    observation, actions, limit, starts = (4,), 2, 500, 4

    def start(self, draws: Tensor) -> Tensor:
        return 0.1 * draws - 0.05

    def advance(self, state: Tensor, action: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        x, speed, angle, rate = state.unbind(-1)
        force = torch.where(action == 1, 10.0, -10.0).double()
        cosine, sine = angle.cos(), angle.sin()
        push = (force + 0.05 * rate.square() * sine) / 1.1
        turn = (9.8 * sine - cosine * push) / (0.5 * (4.0 / 3.0 - 0.1 * cosine.square() / 1.1))
        pull = push - 0.05 * turn * cosine / 1.1
        state = torch.stack([x + 0.02 * speed, speed + 0.02 * pull, angle + 0.02 * rate, rate + 0.02 * turn], -1)
        ended = (state[..., 0].abs() > 2.4) | (state[..., 2].abs() > 12 * 2 * math.pi / 360)
        return state, torch.ones_like(x), ended

    def observe(self, state: Tensor) -> Tensor:
        return state.float()


class Acrobot(Environment):
    """`Acrobot-v1`: swing two links up by a torque at their joint; reward -1 a step, 0 at the end; 500 steps."""

    observation, actions, limit, starts = (6,), 3, 500, 4

    def start(self, draws: Tensor) -> Tensor:
        return 0.2 * draws - 0.1

    def advance(self, state: Tensor, action: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        torque, step = action.double() - 1, 0.2
        k1 = _swing(state, torque)
        k2 = _swing(state + step / 2 * k1, torque)
        k3 = _swing(state + step / 2 * k2, torque)
        k4 = _swing(state + step * k3, torque)
        first, second, rate1, rate2 = (state + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)).unbind(-1)
        rate1 = rate1.clamp(-4 * math.pi, 4 * math.pi)
        rate2 = rate2.clamp(-9 * math.pi, 9 * math.pi)
        state = torch.stack([_wrapped(first), _wrapped(second), rate1, rate2], -1)
        ended = -state[..., 0].cos() - (state[..., 0] + state[..., 1]).cos() > 1.0
        return state, torch.where(ended, 0.0, -1.0).double(), ended

    def observe(self, state: Tensor) -> Tensor:
        first, second, rate1, rate2 = state.unbind(-1)
        return torch.stack([first.cos(), first.sin(), second.cos(), second.sin(), rate1, rate2], -1).float()


def _swing(state: Tensor, torque: Tensor) -> Tensor:
    """Time derivative of the two angles and their rates (the equations of Sutton and Barto's book)."""
    first, second, rate1, rate2 = state.unbind(-1)
    cosine, sine = second.cos(), second.sin()
    d1 = 0.25 + (1 + 0.25 + cosine) + 2
    d2 = 0.25 + 0.5 * cosine + 1
    phi2 = 0.5 * 9.8 * (first + second - math.pi / 2).cos()
    phi1 = -0.5 * rate2**2 * sine - rate2 * rate1 * sine + 1.5 * 9.8 * (first - math.pi / 2).cos() + phi2
    turn2 = (torque + d2 / d1 * phi1 - 0.5 * rate1**2 * sine - phi2) / (0.25 + 1 - d2**2 / d1)
    return torch.stack([rate1, rate2, -(d2 * turn2 + phi1) / d1, turn2], -1)


def _wrapped(angle: Tensor) -> Tensor:
    """An angle in [-pi, pi]."""
    return torch.where(angle.abs() <= math.pi, angle, (angle + math.pi).remainder(2 * math.pi) - math.pi)


class MountainCar(Environment):
    """`MountainCar-v0`: swing a weak car up a hill; reward -1 a step, at most 200 steps. State position, speed."""

    observation, actions, limit, starts = (2,), 3, 200, 1

    def start(self, draws: Tensor) -> Tensor:
        return torch.cat([0.2 * draws - 0.6, torch.zeros_like(draws)], -1)

    def advance(self, state: Tensor, action: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        place, speed = state.unbind(-1)
        speed = (speed + (action - 1) * 0.001 - 0.0025 * (3 * place).cos()).clamp(-0.07, 0.07)
        place = (place + speed).clamp(-1.2, 0.6)
        speed = torch.where((place == -1.2) & (speed < 0), 0.0, speed)
        return torch.stack([place, speed], -1), -torch.ones_like(place), (place >= 0.5) & (speed >= 0)

    def observe(self, state: Tensor) -> Tensor:
        return state.float()


class Pendulum(Environment):
    """`Pendulum-v1`: hold a pendulum upright by a torque in [-2, 2] (an action in [-1, 1]); 200 steps. State angle,
    rate."""

    observation, action_size, limit, starts = (3,), 1, 200, 2

    def start(self, draws: Tensor) -> Tensor:
        return (2 * draws - 1) * torch.tensor([math.pi, 1.0], dtype=torch.float64)

    def advance(self, state: Tensor, action: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        angle, rate = state.unbind(-1)
        torque = (2 * action[..., 0].double()).clamp(-2, 2)
        away = (angle + math.pi).remainder(2 * math.pi) - math.pi
        cost = away**2 + 0.1 * rate**2 + 0.001 * torque**2
        rate = (rate + (15.0 * angle.sin() + 3.0 * torque) * 0.05).clamp(-8, 8)
        return torch.stack([angle + 0.05 * rate, rate], -1), -cost, torch.zeros_like(angle, dtype=torch.bool)

    def observe(self, state: Tensor) -> Tensor:
        return torch.stack([state[..., 0].cos(), state[..., 0].sin(), state[..., 1]], -1).float()
