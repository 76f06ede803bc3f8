"""Environments of reinforcement learning as batched tensors: one for each replica of a fleet."""

from homeostat.studies.lab.environments.batched import Environment, Environments, EnvironmentStep, UniformPool
from homeostat.studies.lab.environments.breakout import Breakout
from homeostat.studies.lab.environments.classic import Acrobot, CartPole, MountainCar, Pendulum
from homeostat.studies.lab.environments.four_rooms import FourRooms
from homeostat.studies.lab.environments.space_invaders import SpaceInvaders

__all__ = [
    "Acrobot",
    "Breakout",
    "CartPole",
    "Environment",
    "EnvironmentStep",
    "Environments",
    "FourRooms",
    "MountainCar",
    "Pendulum",
    "SpaceInvaders",
    "UniformPool",
]
