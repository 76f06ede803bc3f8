"""One arm of the demo: a small network on a changing problem, attached with `homeostat.attach`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import homeostat
from homeostat.core.finding import Finding, JournalEntry
from homeostat.streams import PermutedLabels

ARMS = {"untreated": (), "closed loop": ("auto",)}
"""Arm -> treatments given to `attach`."""
CONTROLLER = "pi:vital=dormant-units,knob=redo.threshold,set_point=0.2,low=0.01,high=0.1,every=100"
"""Raises the threshold of ReDo when more units are dormant, once the closed loop has chosen ReDo."""
HIDDEN = 100
LEARNING_RATE = 5e-3
EPOCHS = 4
BATCH = 64
ITEMS = 1000
FIRST_SEED = 1
"""Seed 0 was used for development."""
LATE = 10
"""Accuracy is averaged over this many tasks at the end."""


@dataclass(frozen=True)
class Progress:
    """Message of an arm after each task.

    Args:
        arm, seed, task: position of the arm.
        tasks: total number of tasks.
        accuracy: on the whole task at its end.
        vitals: vital -> latest value of the worst layer.
        findings: the current findings.
        news: journal entries since the last message.
        done: whether this was the last task of the seed.
        record: path of the record, if there is one.
        error: the error, if the arm failed.
    """

    arm: str
    seed: int = 0
    task: int = 0
    tasks: int = 0
    accuracy: float = float("nan")
    vitals: dict[str, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    news: list[JournalEntry] = field(default_factory=list)
    done: bool = False
    record: str = ""
    error: str = ""


def run_arm(arm: str, seeds: int, tasks: int, folder: Path | None, show: Callable[[Progress], None]) -> None:
    """Train one arm on every seed in turn. The record of the first seed is written to `folder`."""
    torch.set_num_threads(1)
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for progress in _run_seed(arm, seed, tasks, folder if seed == FIRST_SEED else None):
            show(progress)


def run_arm_in_process(arm: str, seeds: int, tasks: int, folder: Path | None, queue: Any) -> None:
    """`run_arm` in a separate process; errors are sent to the queue."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        run_arm(arm, seeds, tasks, folder, queue.put)
    except KeyboardInterrupt:
        pass
    except BaseException as error:
        queue.put(Progress(arm, error=f"{type(error).__name__}: {error}"))


def _run_seed(arm: str, seed: int, tasks: int, folder: Path | None) -> Iterator[Progress]:
    torch.manual_seed(seed)
    stream = PermutedLabels(tasks=tasks, epochs=EPOCHS, batch_size=BATCH, items=ITEMS, seed=seed)
    model = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    treated = bool(ARMS[arm])
    with homeostat.attach(
        model,
        optimizer,
        treatments=ARMS[arm],
        controllers=(CONTROLLER,) if treated else (),
        record=folder,
        seed=seed,
        every=50,
    ) as run:
        heard = 0
        for task in range(tasks):
            if task:
                run.boundary(f"task {task}")
            for step in range(stream.starts[task], stream.starts[task + 1]):
                inputs, targets = stream.batch(step)
                loss = nn.functional.cross_entropy(model(inputs.flatten(1)), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            journal = run.journal()
            yield Progress(
                arm,
                seed,
                task,
                tasks,
                _accuracy(model, *stream.whole(task)),
                _worst(run),
                run.findings(),
                journal[heard:],
                task == tasks - 1,
                str(run.path or ""),
            )
            heard = len(journal)


@torch.no_grad()
def _accuracy(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float((model(inputs.flatten(1)).argmax(1) == targets).float().mean())


def _worst(run: homeostat.AttachedRun) -> dict[str, float]:
    """Latest value of the worst layer, for the two vitals that the demo shows."""
    vitals, found = run.vitals(), {}
    for name, pick in (("dormant-units", max), ("effective-rank", min)):
        latest = [points[-1][1] for points in vitals.get(name, {}).values() if points[-1][1] is not None]
        if latest:
            found[name] = pick(latest)
    return found
