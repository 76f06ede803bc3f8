"""The corpus of healthy and sick runs: make it, set the thresholds on it, report false alarms and detections.

    python benchmarks/healthy_corpus.py make [--mnist FOLDER] [--again NAME,...]   # minutes; what is stored stays
    python benchmarks/healthy_corpus.py calibrate                                  # sets diagnosis/thresholds.json
    python benchmarks/healthy_corpus.py report                                     # false alarms and detections
    python benchmarks/healthy_corpus.py table                                      # the table of docs/findings.md

The false-alarm rate is that of thresholds set on the even seeds, counted on the odd seeds, which they have not seen.
The thresholds that are shipped are then set on all seeds by the same rule.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from homeostat.core.component import find
from homeostat.diagnosis.replay import StoredRun, replay

HERE = Path(__file__).parent
FOLDER = HERE / "healthy"
THRESHOLDS = HERE.parent / "src/homeostat/diagnosis/thresholds.json"
KEPT = ("loss", "dormant-units", "saturated-units", "effective-rank", "gradient-norm", "weight-norm", "non-finite")
PROBED = ("sharpness", "plasticity")
OF_TASKS = ("task-accuracy",)
SEEDS, SICK_SEEDS = 6, 3
READINGS = (44, 50, 60)
"""Readings per run, by seed: a budget gives different cadences to different machines."""


def measured(make, name: str, seed: int) -> StoredRun:
    """Train one run with vitals attached and keep what the conditions read."""
    import homeostat

    torch.manual_seed(seed)
    trial = make(seed)
    every = max(1, trial.steps // (trial.readings or READINGS[seed % 3]))
    vitals = KEPT + (PROBED if trial.probe else ()) + (OF_TASKS if trial.tasks else ())
    given = {"probe": trial.probe, "tasks": trial.tasks}
    run = homeostat.attach(trial.model, trial.optimizers, vitals=vitals, every=every, seed=seed, **given)
    for i in range(trial.steps):
        if i in trial.boundaries:
            run.boundary(f"task at {i}")
        trial.step(i)
    nonlinearity = dict(run._patient.monitor.nonlinearity)
    facts = dataclasses.replace(run._engine.facts(ended=True), nonlinearity=nonlinearity).to_json()
    series = {v: _packed(layers) for v, layers in run.vitals().items() if v in vitals}
    run.detach()
    return StoredRun(name, seed, tuple(trial.expected), facts, list(trial.boundaries), series)


def _packed(layers: dict[str, list]) -> dict:
    steps = sorted({s for points in layers.values() for s, _ in points})
    packed = {}
    for layer, points in layers.items():
        at = {s: None if v is None else float(f"{v:.3g}") for s, v in points}
        values = [at.get(s) for s in steps]
        packed[layer] = values[0] if len(set(values)) == 1 and values[0] is not None else values
    return {"steps": steps, "layers": packed}


def make(arguments: argparse.Namespace) -> None:
    """Train everything and write the two files."""
    if arguments.mnist:
        os.environ["HEALTHY_MNIST"] = arguments.mnist
    from healthy.sicks import SICK
    from healthy.wells import WELL

    again = set(filter(None, arguments.again.split(",")))
    for file, trials, seeds in (("sick", SICK, SICK_SEEDS), ("healthy", WELL, SEEDS)):
        stored = load(file) if (FOLDER / f"{file}.json.gz").exists() else []
        runs = {(r.name, r.seed): r for r in stored if r.name in trials and r.name not in again}
        for seed in range(seeds):
            start, missing = time.perf_counter(), [n for n in trials if (n, seed) not in runs]
            runs |= {(n, seed): measured(trials[n], n, seed) for n in missing}
            save(file, runs.values())
            print(f"{file} seed {seed}: {time.perf_counter() - start:.0f} s for {len(missing)} runs", flush=True)


def save(file: str, runs: Iterable[StoredRun]) -> None:
    """Write the stored runs of `healthy` or `sick`, the same bytes for the same runs."""
    rows = [dataclasses.asdict(r) for r in sorted(runs, key=lambda r: (r.name, r.seed))]
    text = json.dumps(rows, separators=(",", ":"))
    (FOLDER / f"{file}.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def load(file: str) -> list[StoredRun]:
    """The stored runs of `healthy` or `sick`."""
    return [StoredRun(**row) for row in json.loads(gzip.decompress((FOLDER / f"{file}.json.gz").read_bytes()))]


def alarms(runs: Iterable[StoredRun], conditions: Sequence | None = None) -> list[tuple[str, int, str, str]]:
    """(run, seed, condition, severity) of everything above "info"."""
    return [
        (run.name, run.seed, name, finding.severity)
        for run in runs
        for name, finding in replay(run, conditions).items()
        if finding.severity != "info"
    ]


GRID: dict[tuple[str, str], tuple[float, ...]] = {
    ("dormant-units", "warning"): tuple(np.round(np.arange(0.50, 0.96, 0.05), 2)),
    ("saturated-units", "warning"): tuple(np.round(np.arange(0.50, 0.96, 0.05), 2)),
    ("rank-collapse", "warning"): (2.5, 2.2, 2.0, 1.8, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1),
    ("vanishing-gradients", "warning"): tuple(10.0**-k for k in np.arange(3, 8.1, 0.5)),
    ("exploding-gradients", "warning"): tuple(10.0**k for k in np.arange(1, 4.1, 0.25)),
    ("oscillating-loss", "warning"): tuple(np.round(np.arange(0.1, 1.55, 0.1), 2)),
    ("stalled-learning", "progress"): (0.05, 0.03, 0.02, 0.01, 0.005, 0.002, 0.0),
    ("loss-of-plasticity", "warning"): (0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0),
    ("loss-of-plasticity", "drop"): (0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
}
"""Threshold -> values from sensitive to insensitive. The first is as sensitive as makes sense."""


def calibrate(arguments: argparse.Namespace) -> None:
    """Set every threshold of the grid: on half of the seeds to learn the false-alarm rate, then on all of them to ship.

    A threshold is the grid value one step less sensitive than the first without an alarm on the runs it is set on.
    """
    stored = json.loads(THRESHOLDS.read_text())
    runs = load("healthy")
    for condition, name in GRID:
        judged = [r for r in runs if _seen(r, condition, name)]
        half, held = [r for r in judged if r.seed % 2 == 0], [r for r in judged if r.seed % 2]
        trial, _ = _quietest(condition, name, half)
        false = alarms(held, [_alone(condition, name, trial)])
        chosen, first = _quietest(condition, name, judged)
        entry = stored["conditions"][condition][name]
        entry["value"] = float(f"{chosen:.4g}")
        entry["how"] = f"corpus: no alarm on {len(judged)} runs from {first:.3g} on; one grid step further out"
        entry["corpus"] = {
            "runs": len(judged),
            "half": float(f"{trial:.4g}"),
            "held_out": len(held),
            "false": len(false),
        }
        print(f"{condition}.{name}: {chosen:.4g}; from half the seeds {trial:.4g}, held out {len(false)}/{len(held)}")
    THRESHOLDS.write_text(json.dumps(stored, indent=1) + "\n")


def _seen(run: StoredRun, condition: str, name: str) -> bool:
    lead = "plasticity" if name == "drop" else find("condition", condition).reads[0]
    values = run.series.get(lead, {"layers": {}})["layers"].values()
    return any(v is not None for series in values for v in (series if isinstance(series, list) else [series]))


def _quietest(condition: str, name: str, runs: Sequence[StoredRun]) -> tuple[float, float]:
    """The threshold, and the first grid value without an alarm."""
    grid = GRID[condition, name]
    quiet = (i for i, value in enumerate(grid) if not alarms(runs, [_alone(condition, name, value)]))
    first = next(quiet, len(grid) - 1)
    return grid[min(first + 1, len(grid) - 1)], grid[first]


def _alone(condition: str, name: str, value: float):
    """The condition with this threshold at `value` and no other threshold able to raise an alarm."""
    cls = find("condition", condition)
    others = {k: 1.0 if k == "drop" else cls.knob_specs()[k].high for c, k in GRID if c == condition and k != name}
    same = {k: value for k in ("info", "critical") if k in cls.knob_specs()} if name == "warning" else {}
    return cls(**others, **same, **{name: value})


def report(arguments: argparse.Namespace) -> None:
    """False alarms on the healthy runs and detections on the sick ones."""
    runs = load("healthy")
    found = alarms(runs)
    print(f"healthy: {len(runs)} runs, {len({f[:2] for f in found})} with a false alarm {found}")
    info: Counter = Counter()
    for run in runs:
        info.update(n for n, f in replay(run).items() if f.severity == "info")
    print("info findings on healthy runs:", dict(info))
    for name in dict.fromkeys(r.name for r in load("sick")):
        own = [r for r in load("sick") if r.name == name]
        replays = [replay(r) for r in own]
        hits = {c: sum(c in f and f[c].severity != "info" for f in replays) for c in own[0].expected}
        also = Counter(c for f in replays for c, v in f.items() if v.severity != "info" and c not in hits)
        told = ", ".join(f"{c} {k}/{len(own)}" for c, k in hits.items())
        print(f"  {name:26s} {told}; also {dict(also)}")


def table(arguments: argparse.Namespace) -> None:
    """The thresholds as the Markdown table of docs/findings.md."""
    print("| condition | threshold | value | clears at | held-out false alarms | how it was set |")
    print("|---|---|---|---|---|---|")
    for condition, limits in sorted(json.loads(THRESHOLDS.read_text())["conditions"].items()):
        for name, entry in limits.items():
            corpus = entry.get("corpus")
            alarms = f"{corpus['false']} of {corpus['held_out']} (at {corpus['half']:g})" if corpus else ""
            clears = f"{entry['value'] * entry.get('ease', 1):.3g}" if entry.get("ease", 1) != 1 else ""
            print(f"| `{condition}` | {name} | {entry['value']:g} | {clears} | {alarms} | {entry['how']} |")


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for function in (make, calibrate, report, table):
        own = commands.add_parser(function.__name__, help=function.__doc__)
        own.set_defaults(function=function)
        if function is make:
            own.add_argument("--mnist", default="", help="folder with IDX files, gzipped")
            own.add_argument("--again", default="", help="names of stored runs to train again")
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
