"""Cost of each vital on a 784-512-512-512-10 ReLU network at batch 64 and batch 1.

Every round times one bare training step (Adam) and one measurement of each vital, one after the other, so that load on
the machine affects all alike. The median over rounds is reported, in milliseconds and as a share of the step.

    python benchmarks/vitals_cost.py [--rounds 30] [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from homeostat.core.component import components
from homeostat.core.random import Draw
from homeostat.core.snapshot import Probe, Readings
from homeostat.core.vital import Vital

PROBE_SAMPLES = 64


def network() -> nn.Sequential:
    """The network that is measured."""
    sizes = (784, 512, 512, 512)
    layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(512, 10))


def training_step(model: nn.Sequential, batch: int) -> Callable[[], None]:
    """A bare step on fixed random data."""
    x, y = torch.randn(batch, 784), torch.randint(10, (batch,))
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def snapshot(model: nn.Sequential, batch: int) -> Readings:
    """The readings of one step of it, with a probe of 64 samples."""
    x, y = torch.randn(batch, 784), torch.randint(10, (batch,))
    activations, h = {}, x
    for name, module in model.named_children():
        h = module(h)
        if isinstance(module, nn.ReLU):
            activations[str(int(name) - 1)] = h.detach()
    loss = nn.functional.cross_entropy(h, y)
    weights = {n: p.detach() for n, p in model.named_parameters()}
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(model.parameters())), strict=True))
    return Readings(
        activations=activations,
        nonlinearity=dict.fromkeys(activations, "relu"),
        weights=weights,
        gradients=gradients,
        updates={n: -1e-4 * g for n, g in gradients.items()},
        loss=loss.detach(),
        probe=probe_of(model, weights),
    )


def probe_of(model: nn.Sequential, weights: dict[str, Tensor]) -> Probe:
    """A classification probe on random data."""
    x, y = torch.randn(PROBE_SAMPLES, 784), torch.randint(10, (PROBE_SAMPLES,))

    def outputs(parameters) -> Tensor:
        return functional_call(model, dict(parameters), (x,))

    return Probe(weights, x, y, outputs, lambda p: nn.functional.cross_entropy(outputs(p), y), Draw(0))


def milliseconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return 1e3 * (time.perf_counter() - start)


def costs(batch: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of the bare step ("step") and of each vital. Heavy vitals take part in every tenth round."""
    model = network()
    step, readings = training_step(model, batch), snapshot(model, batch)
    vitals: dict[str, Vital] = {name: cls() for name, cls in components("vital").items()}
    times: dict[str, list[float]] = {"step": [], **{name: [] for name in vitals}}
    for vital in vitals.values():
        vital(readings)
    for i in range(rounds):
        times["step"].append(milliseconds(step))
        for name, vital in vitals.items():
            if vital.cost != "heavy" or i % 10 == 0:
                times[name].append(milliseconds(lambda vital=vital: vital(readings)))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = {batch: costs(batch, arguments.rounds) for batch in (64, 1)}
    print("| vital | default | batch 64, ms | of a step | batch 1, ms | of a step |\n|---|---|---|---|---|---|")
    for name in found[64]:
        default = "" if name == "step" else "yes" if components("vital")[name].default else "no"
        cells = [f"{c[name]:.3f} | {100 * c[name] / c['step']:.0f}%" for c in found.values()]
        print(f"| {name} | {default} | {' | '.join(cells)} |")
    if arguments.json:
        facts = {"torch": torch.__version__, "threads": 1, "rounds": arguments.rounds, "milliseconds": found}
        arguments.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
