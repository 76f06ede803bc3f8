"""Overhead of the default vitals: the same training loop bare and attached, alternating.

A 3x512 ReLU MLP on 784 inputs, SGD, one thread, at batch 64 and batch 1. Each round trains a bare network and an
attached one. The median of the ratios of all rounds is reported for processor time, which other load on the machine
hardly affects, and for wall time. The cost of attaching (tracing the network, once per run) is reported separately.

    python benchmarks/overhead.py [--rounds 7] [--steps 1500] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

import homeostat


def train(batch: int, steps: int, attached: bool) -> tuple[float, float, float]:
    """Processor seconds and wall seconds of the loop, and seconds of it spent on tracing."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for width in (784, 512, 512):
        layers += [nn.Linear(width, 512), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(512, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    inputs, targets = torch.randn(64, batch, 784), torch.randint(0, 10, (64, batch))
    run = homeostat.attach(model, optimizer) if attached else None
    cpu, wall = time.process_time(), time.perf_counter()
    for step in range(steps):
        loss = nn.functional.cross_entropy(model(inputs[step % 64]), targets[step % 64])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    spent = time.process_time() - cpu, time.perf_counter() - wall
    tracing = 0.0
    if run is not None:
        tracing = sum(p.tracing.seconds for p in run._run.networks)
        run.detach()
    return *spent, tracing


def measure(batch: int, steps: int, rounds: int) -> dict[str, float]:
    """Median ratios of a few rounds, in percent of the bare loop."""
    train(batch, max(steps // 10, 20), True)
    cpu, wall, traced, bare_ms = [], [], [], []
    for _ in range(rounds):
        bare = train(batch, steps, False)
        attached = train(batch, steps, True)
        cpu.append((attached[0] - attached[2]) / bare[0] - 1)
        wall.append((attached[1] - attached[2]) / bare[1] - 1)
        traced.append(attached[2])
        bare_ms.append(bare[0] / steps * 1e3)
    return {
        "batch": batch,
        "steps": steps,
        "rounds": rounds,
        "step_ms": statistics.median(bare_ms),
        "overhead_cpu_percent": 100 * statistics.median(cpu),
        "overhead_wall_percent": 100 * statistics.median(wall),
        "attach_once_ms": 1e3 * statistics.median(traced),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(64, args.steps, args.rounds), measure(1, args.steps * 4, args.rounds)]
    print("batch  step (cpu ms)  overhead cpu  overhead wall  once, at attach (ms)")
    for r in rows:
        print(
            f"{r['batch']:5d}  {r['step_ms']:13.2f}  {r['overhead_cpu_percent']:+11.1f}%  "
            f"{r['overhead_wall_percent']:+12.1f}%  {r['attach_once_ms']:20.0f}"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
