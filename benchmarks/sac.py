"""Overhead of the callback for SAC: a bare agent and a measured agent learn in turn.

SAC with its default networks (2x256) and batch (256) on Pendulum-v1, one thread. The agents are equal and take turns of
`--turn` environment steps; the first agent alternates, so that other load on the machine affects both alike. The
reported overhead is the ratio of the total processor times, with a 95% bootstrap interval over the turns. The cost of
attaching the networks, once per run, is reported separately.

    python benchmarks/sac.py [--turns 40] [--turn 50] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import SAC

from homeostat.integrations.sb3 import HomeostatCallback

FIRST = 120
"""Environment steps before the first turn: learning begins, and the networks are known."""


def agent() -> SAC:
    return SAC("MlpPolicy", "Pendulum-v1", seed=0, device="cpu", learning_starts=100)


def seconds(learner: SAC, steps: int, callback: HomeostatCallback | None) -> tuple[float, float]:
    """Processor and wall seconds of that many steps."""
    busy, wall = time.process_time(), time.perf_counter()
    learner.learn(steps, callback=callback, reset_num_timesteps=False)
    return time.process_time() - busy, time.perf_counter() - wall


def measure(turns: int, steps: int) -> dict[str, Any]:
    """The ratios in percent, with their intervals, and what they were taken from."""
    bare, seen = agent(), agent()
    rows = []
    with HomeostatCallback() as callback:
        seconds(bare, FIRST, None)
        seconds(seen, FIRST, callback)
        for turn in range(turns):
            done = {}
            for measured in (turn % 2 == 0, turn % 2 == 1):
                done[measured] = seconds(seen, steps, callback) if measured else seconds(bare, steps, None)
            rows.append((*done[False], *done[True]))
        once = sum(p.tracing.seconds for p in callback._seen.run.networks)
    table = np.array(rows)
    return {
        "turns": turns,
        "steps": steps,
        "step_ms": float(1e3 * table[:, 0].sum() / (turns * steps)),
        "processor": ratio(table[:, 0], table[:, 2]),
        "wall": ratio(table[:, 1], table[:, 3]),
        "once_ms": 1e3 * once,
    }


def ratio(bare: np.ndarray, seen: np.ndarray) -> tuple[float, float, float]:
    """Percent by which the sum of `seen` is above that of `bare`, and its 95% interval over the turns."""
    rows = np.random.default_rng(0).integers(len(bare), size=(10_000, len(bare)))
    drawn = seen[rows].sum(1) / bare[rows].sum(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return tuple(float(100 * (value - 1)) for value in (seen.sum() / bare.sum(), low, high))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--turn", type=int, default=50)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    row = measure(args.turns, args.turn)
    print(
        f"a bare step: {row['step_ms']:.1f} ms of processor time; once, to know the networks: {row['once_ms']:.0f} ms"
    )
    for what in ("processor", "wall"):
        value, low, high = row[what]
        print(f"measured, {what} time: {value:+.1f}% ({low:+.1f} to {high:+.1f})")
    if args.json:
        args.json.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
