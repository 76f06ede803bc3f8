"""What each treatment adds to a step, and what it keeps, on a 784-256-256-10 network with batch norm at batch 64.

Every round times a block of steps of a run without a treatment and of a run with each treatment, in an order that is
drawn anew, so that load on the machine affects all alike. All runs are attached, without vitals. The loops call
`run.batch`, `run.loss` and, twice before the timing, `run.boundary`. A treatment that acts at intervals or at
boundaries costs next to nothing at the other steps; the median of the rounds is that of its usual step. "State" is
what it keeps between steps, in multiples of the weights: 1 is another copy of them.

    python benchmarks/treatments_cost.py [--rounds 15] [--steps 20] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import homeostat
from homeostat.core.component import components
from homeostat.core.errors import Refused

BATCH = 64


class Loop:
    """A training loop with one treatment, or with none."""

    def __init__(self, treatment: str | None) -> None:
        torch.manual_seed(0)
        widths = ((784, 256), (256, 256))
        layers = [m for a, b in widths for m in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())]
        self.model = nn.Sequential(*layers, nn.Linear(256, 10))
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-4)
        chosen = [] if treatment is None else [treatment]
        self.run = homeostat.attach(self.model, self.optimizer, treatments=chosen, vitals=(), strict=True)
        self.criterion = self.run.loss(nn.CrossEntropyLoss())
        self.inputs, self.targets = torch.randn(BATCH, 784), torch.randint(10, (BATCH,))

    def steps(self, count: int) -> float:
        """Seconds of `count` steps."""
        began = time.perf_counter()
        for _ in range(count):
            x, y = self.run.batch(self.inputs, self.targets)
            self.optimizer.zero_grad()
            self.criterion(self.model(x), y).backward()
            self.optimizer.step()
        return time.perf_counter() - began

    def state(self, treatment: str) -> float:
        """What the treatment keeps, in multiples of the weights."""
        kept = _bytes(_below(self.run.state_dict(), treatment))
        return kept / sum(p.numel() * p.element_size() for p in self.model.parameters())


def _below(tree: Any, name: str) -> Any:
    """The part of nested dictionaries under the key `name`."""
    if isinstance(tree, dict):
        if name in tree:
            return tree[name]
        return next((found for value in tree.values() if (found := _below(value, name)) is not None), None)
    return None


def _bytes(tree: Any) -> int:
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    return sum(map(_bytes, tree.values())) if isinstance(tree, dict) else 0


def measured(rounds: int, steps: int) -> list[dict[str, Any]]:
    """A row for each treatment: milliseconds a step, its ratio to the untreated step, and its state."""
    loops: dict[str | None, Loop] = {None: Loop(None)}
    rows: list[dict[str, Any]] = []
    for name in components("treatment"):
        try:
            loops[name] = Loop(name)
            loops[name].steps(2)
        except Refused as error:
            loops.pop(name, None)
            rows.append({"treatment": name, "refused": str(error)})
    for loop in loops.values():
        for _ in range(2):
            loop.steps(steps)
            loop.run.boundary()
    times: dict[str | None, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        order = list(loops)
        random.shuffle(order)
        for name in order:
            times[name].append(loops[name].steps(steps) / steps)
    for name in (name for name in loops if name is not None):
        ratios = [own / bare for own, bare in zip(times[name], times[None], strict=True)]
        ms = 1000 * statistics.median(times[name])
        rows.append({"treatment": name, "ms": ms, "ratio": statistics.median(ratios), "state": loops[name].state(name)})
    return sorted(rows, key=lambda row: row["treatment"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = measured(args.rounds, args.steps)
    print("| treatment | step, against none | state, in copies of the weights |\n|---|---|---|")
    for row in rows:
        numbers = "refused |" if "refused" in row else f"{row['ratio']:.2f} | {row['state']:.1f}"
        print(f"| `{row['treatment']}` | {numbers} |")
    if args.json:
        args.json.write_text(json.dumps({"treatments": rows}, indent=1), "utf-8")


if __name__ == "__main__":
    main()
