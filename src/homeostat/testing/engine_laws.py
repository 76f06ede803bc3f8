"""The laws of a treatment attached to a real loop: it acts, and it resumes exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from homeostat.core.treatment import Treatment
from homeostat.shell.attach import AttachedRun, attach
from homeostat.shell.options import CheckpointOptions
from homeostat.testing.grid import DOUBLE, Case, suited
from homeostat.testing.mini_run import BOUNDARY_EVERY, same
from homeostat.testing.trajectories import one_trajectory

__all__ = ["AttachedLoop", "eager", "loop", "one_trajectory", "resumes", "treats_when_attached"]

STEPS = 16


@dataclass(eq=False)
class AttachedLoop:
    """A user's loop with a run attached.

    Args:
        model, optimizer: fresh ones.
        run: attached to them.
        step: performs one step; called with the loop and the number of the step.
        case: the network and its data.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    run: AttachedRun
    step: Callable[[AttachedLoop, int], None]
    case: Case = DOUBLE

    def go(self, first: int, last: int) -> None:
        for number in range(first, last + 1):
            self.step(self, number)
            if number % BOUNDARY_EVERY == 0:
                with self.run.evaluation(), torch.no_grad():
                    self.model(self.case.data(number)[0])
                self.run.boundary(f"task {number}")

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        inputs, targets = self.run.batch(inputs, targets)
        return self.run.loss(F.cross_entropy)(self.model(inputs), targets)


def loop(
    treatment: Treatment,
    step: Callable[[AttachedLoop, int], None],
    case: Case | None = None,
    *,
    strict: bool = True,
    seed: int = 0,
    resume: Path | None = None,
) -> AttachedLoop:
    """A network of the grid under treatment, drawn from a seed or resumed from a checkpoint.

    Args:
        case: the network; by default one in float64 on which the treatment acts.
    """
    case = case or suited(DOUBLE, treatment)
    model = case.build(seed)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    run = attach(
        model,
        optimizer,
        treatments=[treatment],
        vitals=["loss"],
        strict=strict,
        checkpoint=CheckpointOptions(resume=resume),
    )
    return AttachedLoop(model, optimizer, run, step, case)


def eager(it: AttachedLoop, number: int) -> None:
    """The plain loop."""
    it.optimizer.zero_grad()
    it.loss(*it.case.data(number)).backward()
    it.optimizer.step()


def _two_classes(number: int) -> tuple[Tensor, Tensor]:
    """A batch without one of the three classes."""
    inputs, targets = DOUBLE.data(number)
    return inputs, targets % 2


def _narrow(it: AttachedLoop, number: int) -> None:
    it.optimizer.zero_grad()
    it.loss(*_two_classes(number)).backward()
    it.optimizer.step()


def treats_when_attached(treatment: Treatment) -> None:
    """Attached to a loop, it changes training or evaluation, and the journal records its start."""
    treated = loop(treatment, _narrow)
    treated.go(1, STEPS)
    with treated.run.evaluation():
        evaluated = {name: value.clone() for name, value in treated.model.state_dict().items()}
    actions = [entry for entry in treated.run.journal() if entry.component == treatment.name]
    treated.run.detach()
    bare = treated.case.build(0)
    optimizer = torch.optim.Adam(bare.parameters(), lr=1e-2)
    for number in range(1, STEPS + 1):
        inputs, targets = _two_classes(number)
        optimizer.zero_grad()
        F.cross_entropy(bare(inputs), targets).backward()
        optimizer.step()
    shared = {name: value for name, value in evaluated.items() if name in bare.state_dict()}
    assert same(shared, bare.state_dict()), "the weights are those of the untreated run"
    assert actions, "the journal does not mention it"


def resumes(treatment: Treatment) -> None:
    """Saved with `state_dict` and loaded into a new run, it continues bit for bit."""
    first = loop(treatment, eager)
    first.go(1, 8)
    model, optimizer = copy.deepcopy((first.model, first.optimizer))
    saved = copy.deepcopy(first.run.state_dict())
    first.go(9, STEPS)
    first.run.detach()
    run = attach(model, optimizer, treatments=[treatment], vitals=["loss"], strict=True)
    run.load_state_dict(saved)
    other = AttachedLoop(model, optimizer, run, eager, first.case)
    other.go(9, STEPS)
    run.detach()
    wrong = same(other.model.state_dict(), first.model.state_dict())
    assert not wrong, f"{wrong} differs after resuming"
