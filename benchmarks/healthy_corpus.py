"""The corpus of healthy and sick runs: create it, set thresholds, report false alarms and detections.

    python benchmarks/healthy_corpus.py make [--mnist FOLDER] [--again NAME,...]   # minutes; what is stored stays
    python benchmarks/healthy_corpus.py calibrate                                  # sets diagnosis/thresholds.json
    python benchmarks/healthy_corpus.py report                                     # false alarms and detections
    python benchmarks/healthy_corpus.py table                                      # the table of docs/findings.md

The false-alarm rate is measured with thresholds set on the even seeds and tested on the odd seeds. The final thresholds
are then set on all seeds by the same rule.
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

import torch

from homeostat.core.component import components, find
from homeostat.diagnosis.replay import StoredRun, replay
from homeostat.diagnosis.thresholds import Measured

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
    of_tasks = homeostat.MeasureOptions(tasks=trial.tasks)
    run = homeostat.attach(
        trial.model, trial.optimizers, vitals=vitals, every=every, seed=seed, probe=trial.probe, measure=of_tasks
    )
    for i in range(trial.steps):
        if i in trial.boundaries:
            run.boundary(f"task at {i}")
        trial.step(i)
    nonlinearity = dict(run._network.observer.nonlinearity)
    facts = dataclasses.replace(run._run.facts(ended=True), nonlinearity=nonlinearity).to_json()
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


def grid() -> dict[tuple[str, str], Measured]:
    """Every threshold that is measured here: (condition, setting) -> how."""
    return {
        (name, spec.name): spec.metadata["measured"]
        for name, condition in components("condition").items()
        for spec in dataclasses.fields(condition)
        if spec.metadata.get("measured")
    }


def calibrate(arguments: argparse.Namespace) -> None:
    """Set every threshold of the grid: on half of the seeds to learn the false-alarm rate, then on all of them to ship.

    A threshold is the grid value one step less sensitive than the first without an alarm on the runs it is set on.
    """
    stored = json.loads(THRESHOLDS.read_text())
    runs = load("healthy")
    for (condition, name), threshold in grid().items():
        judged = [r for r in runs if _seen(r, threshold.vital or find("condition", condition).reads[0])]
        half, held = [r for r in judged if r.seed % 2 == 0], [r for r in judged if r.seed % 2]
        trial, _ = _quietest(condition, name, half)
        false = alarms(held, [_alone(condition, name, trial)])
        chosen, first = _quietest(condition, name, judged)
        entry = stored["conditions"].setdefault(condition, {}).setdefault(name, {})
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


def _seen(run: StoredRun, lead: str) -> bool:
    values = run.series.get(lead, {"layers": {}})["layers"].values()
    return any(v is not None for series in values for v in (series if isinstance(series, list) else [series]))


def _quietest(condition: str, name: str, runs: Sequence[StoredRun]) -> tuple[float, float]:
    """The threshold, and the first grid value without an alarm."""
    values = grid()[condition, name].grid
    quiet = (i for i, value in enumerate(values) if not alarms(runs, [_alone(condition, name, value)]))
    first = next(quiet, len(values) - 1)
    return values[min(first + 1, len(values) - 1)], values[first]


def _alone(condition: str, name: str, value: float):
    """The condition with this threshold at `value` and no other threshold able to raise an alarm."""
    cls = find("condition", condition)
    others = {k: 1.0 if k == "drop" else cls.knob_specs()[k].high for c, k in grid() if c == condition and k != name}
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
    measured = json.loads(THRESHOLDS.read_text())["conditions"]
    for condition, cls in components("condition").items():
        for spec in (s for s in dataclasses.fields(cls) if "ease" in s.metadata):
            value, ease = spec.default, spec.metadata["ease"]
            corpus = measured.get(condition, {}).get(spec.name, {}).get("corpus")
            alarms = f"{corpus['false']} of {corpus['held_out']} (at {corpus['half']:g})" if corpus else ""
            clears = f"{value * ease:.3g}" if ease != 1 else ""
            how = spec.metadata["knob"].source
            print(f"| `{condition}` | {spec.name} | {value:g} | {clears} | {alarms} | {how} |")


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
