"""Processor time and returns of agents that a fleet trains on CartPole, one thread.

python benchmarks/fleet_agents.py [--agent dqn|ppo] [--seeds 30] [--steps 30000]
"""

from __future__ import annotations

import argparse
import time

import torch

from homeostat.studies.lab.dqn import train_dqn
from homeostat.studies.lab.environments import CartPole
from homeostat.studies.lab.ppo import train_ppo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", choices=("dqn", "ppo"), default="dqn")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=30_000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    train = train_dqn if asked.agent == "dqn" else train_ppo
    _, episodes = train(CartPole(), range(asked.seeds), asked.steps)
    spent, returns = time.process_time() - began, episodes.mean_of_last(20)
    print(f"{asked.agent}, {asked.seeds} seeds of {asked.steps:,} steps: {spent / 60:.1f} core-minutes")
    mean = sum(returns) / len(returns)
    print(f"mean return of the last 20 episodes: {mean:.0f}, {min(returns):.0f} to {max(returns):.0f}")


if __name__ == "__main__":
    main()
