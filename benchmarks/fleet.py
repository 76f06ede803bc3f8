"""Speed of a fleet against the same networks trained one by one, in seed-steps per second.

    python benchmarks/fleet.py [--cases NAME ...] [--seeds 30] [--rounds 7] [--seconds 1.5] [--json]

Two processes with one thread each do all work. In turn they train

    solo          one network at a time, in torch alone
    solo treated  the same with `homeostat.attach`: default vitals every 100 steps, continual backprop
    fleet         their half of the seeds in one `Fleet`
    fleet treated the same with default vitals every 100 steps and continual backprop
    bare          their half of the seeds in the plainest stacked loop: batched products, autograd, no library

and the speeds of both are added. All ways take turns within a round, so that a busy machine slows all of them; the
figures are medians over the rounds. `ratio` is fleet over solo, treated if the case is measured treated.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import homeostat
from homeostat.fleet import Fleet
from homeostat.treatments import ContinualBackprop

F = nn.functional
Step = Callable[[], Any]
WAYS = ("solo", "fleet", "bare", "solo treated", "fleet treated")
KEPT = 20
"""Different batches; a run meets them in turn."""


class Transformer(nn.Module):
    """Two pre-norm layers of width 64 on sequences of 16 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(32, 64), nn.Parameter(0.02 * torch.randn(16, 64))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.head = nn.Linear(64, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens) + self.place
        for layer in self.layers:
            h = layer(h)
        return self.head(h.mean(-2))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One network and batch size.

    Args:
        make: the network.
        optimizer: makes its optimizer.
        batch: items per batch.
        inputs: shape of one input; integers below 32 if there are `tokens`.
        treated: whether the bar is for treated runs.
        bar: the ratio, and the seed-steps per second, that are aimed at.
    """

    make: Callable[[], nn.Module]
    optimizer: Callable[..., torch.optim.Optimizer]
    batch: int
    inputs: tuple[int, ...]
    tokens: bool = False
    treated: bool = False
    bar: tuple[float, float] = (2.0, 0.0)

    def data(self, lead: tuple[int, ...], seed: int) -> list[tuple[Tensor, Tensor]]:
        g = torch.Generator().manual_seed(seed)
        shape = (*lead, self.batch)
        if self.tokens:
            inputs = [torch.randint(32, (*shape, *self.inputs), generator=g) for _ in range(KEPT)]
        else:
            inputs = [torch.randn(*shape, *self.inputs, generator=g) for _ in range(KEPT)]
        return [(x, torch.randint(10, shape, generator=g)) for x in inputs]


SGD, ADAM = partial(torch.optim.SGD, lr=1e-3), partial(torch.optim.Adam, lr=1e-4)
CASES = {
    "mlp-batch-1": Case(mlp, SGD, 1, (784,), treated=True, bar=(8.0, 40_000.0)),
    "mlp-batch-16": Case(mlp, SGD, 16, (784,), treated=True, bar=(3.0, 10_000.0)),
    "cnn": Case(cnn, SGD, 4, (1, 28, 28)),
    "transformer": Case(Transformer, ADAM, 4, (16,), tokens=True),
}


def treated() -> dict[str, Any]:
    return {"treatments": [ContinualBackprop()], "every": 100}


def solo_step(case: Case, with_homeostat: bool) -> Step:
    """A step of one network trained alone."""
    torch.manual_seed(0)
    model = case.make()
    optimizer = case.optimizer(model.parameters())
    if with_homeostat:
        homeostat.attach(model, optimizer, **treated())
    batches, count = case.data((), 0), iter(range(10**12))

    def step() -> None:
        inputs, targets = batches[next(count) % KEPT]
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return step


def fleet_step(case: Case, seeds: int, with_homeostat: bool, group: int | None) -> Step:
    """A step of all replicas in a fleet."""
    kind = treated() if with_homeostat else {"vitals": ()}
    fleet = Fleet(case.make, optimizer=case.optimizer, seeds=range(seeds), group=group, **kind)
    batches, count = case.data((seeds,), 0), iter(range(10**12))
    return lambda: fleet.step(*batches[next(count) % KEPT])


def bare_step(case: Case, seeds: int) -> Step | None:
    """A step of stacked multi-layer perceptrons with nothing else around it; None for other networks."""
    if case.make is not mlp:
        return None
    g = torch.Generator().manual_seed(0)
    weights = [
        (torch.randn(seeds, o, i, generator=g) / i**0.5).requires_grad_()
        for i, o in ((784, 100), (100, 100), (100, 10))
    ]
    biases = [torch.zeros(seeds, w.shape[1], requires_grad=True) for w in weights]
    batches, count, parameters = case.data((seeds,), 0), iter(range(10**12)), [*weights, *biases]

    def step() -> None:
        h, targets = batches[next(count) % KEPT]
        for at, (w, b) in enumerate(zip(weights, biases, strict=True)):
            h = torch.baddbmm(b.unsqueeze(1), h, w.transpose(1, 2))
            h = h.relu() if at < 2 else h
        loss = F.cross_entropy(h.flatten(0, 1), targets.flatten(), reduction="sum") / case.batch
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            torch._foreach_add_(parameters, gradients, alpha=-1e-3)

    return step


def make_step(case: Case, way: str, seeds: int, group: int | None) -> tuple[Step | None, int]:
    """A step of one way, and the seeds that it advances."""
    if way.startswith("solo"):
        return solo_step(case, way.endswith("treated")), 1
    if way == "bare":
        return bare_step(case, seeds), seeds
    return fleet_step(case, seeds, way.endswith("treated"), group), seeds


def work(pipe: Any, name: str, seeds: int, group: int | None) -> None:
    """A worker: makes every way when it is first asked for, and runs it for some seconds."""
    torch.set_num_threads(1)
    made: dict[str, tuple[Step | None, int]] = {}
    while (job := pipe.recv()) is not None:
        way, seconds = job
        if way not in made:
            made[way] = make_step(CASES[name], way, seeds, group)
            for _ in range(30 if made[way][0] else 0):
                made[way][0]()
        step, each = made[way]
        pipe.send("ready")
        pipe.recv()
        began, steps = time.perf_counter(), 0
        while step is not None and time.perf_counter() - began < seconds:
            step()
            steps += 1
        pipe.send(steps * each / (time.perf_counter() - began))


def measure(name: str, seeds: int, rounds: int, seconds: float, group: int | None) -> dict[str, Any]:
    """Seed-steps per second of every way, medians over the rounds, both processes together."""
    context, pipes, workers = multiprocessing.get_context("spawn"), [], []
    for part in (seeds // 2, seeds - seeds // 2):
        ours, theirs = context.Pipe()
        workers.append(context.Process(target=work, args=(theirs, name, part, group), daemon=True))
        workers[-1].start()
        pipes.append(ours)
    ways = [way for way in WAYS if CASES[name].treated or not way.endswith("treated")]
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways if number % 2 else reversed(ways):
            for pipe in pipes:
                pipe.send((way, seconds))
            for pipe in pipes:
                pipe.recv()
            for pipe in pipes:
                pipe.send("go")
            speeds[way].append(sum(pipe.recv() for pipe in pipes))
        print(f"{name} round {number + 1}: { ({w: round(v[-1]) for w, v in speeds.items()}) }", file=sys.stderr)
    for pipe, worker in zip(pipes, workers, strict=True):
        pipe.send(None)
        worker.join()
    return report(CASES[name], speeds)


def report(case: Case, speeds: dict[str, list[float]]) -> dict[str, Any]:
    medians = {way: statistics.median(values) for way, values in speeds.items()}
    tail = " treated" if case.treated else ""
    ratios = [fleet / solo for fleet, solo in zip(speeds[f"fleet{tail}"], speeds[f"solo{tail}"], strict=True)]
    found = {
        "ratio": round(statistics.median(ratios), 2),
        "seed_steps_per_s": round(medians[f"fleet{tail}"]),
        "bar": {"ratio": case.bar[0], "seed_steps_per_s": case.bar[1]},
        "plain_ratio": round(medians["fleet"] / medians["solo"], 2),
        "medians": {way: round(value) for way, value in medians.items() if value},
    }
    if case.treated:
        found["treated_over_plain_solo"] = round(medians["fleet treated"] / medians["solo"], 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--group", type=int, help="replicas that are computed together; the default is the fleet's own")
    parser.add_argument("--json", action="store_true", help="print one JSON object: case -> figures")
    asked = parser.parse_args()
    found = {name: measure(name, asked.seeds, asked.rounds, asked.seconds, asked.group) for name in asked.cases}
    if asked.json:
        print(json.dumps(found))
        return
    for name, row in found.items():
        print(f"{name}: x{row['ratio']:g} (bar x{row['bar']['ratio']:g}), {row['seed_steps_per_s']:,} seed-steps/s")
        print("   " + ", ".join(f"{way} {value:,}" for way, value in row["medians"].items()))


if __name__ == "__main__":
    main()
