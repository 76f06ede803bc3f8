"""Stages that a line in the user's loop opens: batch, loss and evaluation."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from homeostat.core.edits import Edit, ExtendBatch, MaskOutputs
from homeostat.core.errors import BadInput
from homeostat.core.treatment import Stage, View
from homeostat.shell.edits.apply import apply_edits
from homeostat.shell.edits.undo_log import UndoLog
from homeostat.shell.run.compatibility import LINES
from homeostat.shell.run.treatments import AppliedTreatment, TreatmentRunner


class Made(NamedTuple):
    """A partially assembled batch: inputs and targets [N, ...], and the tasks [N] of its items.

    `tasks` is None if all items belong to the current task, or if the tasks are unknown.
    """

    inputs: Tensor
    targets: Tensor
    tasks: Tensor | None = None


class LoopHooks:
    """Lets the treatments of a network change its batches, the outputs before its loss, and its evaluations.

    Args:
        treatments: of the network.
    """

    def __init__(self, treatments: TreatmentRunner) -> None:
        self._treatments = treatments
        self._opened: set[Stage] = set()
        self._calls: dict[Stage, tuple[int, int]] = {}
        self._evaluating = 0

    def batch(self, inputs: Tensor, targets: Tensor, tasks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The batch to train on: the user's batch, extended by treatments.

        Args:
            inputs, targets: [N, ...] each.
            tasks: [N], see `AttachedRun.batch`.

        Returns:
            [N + M, ...] each, the user's items first; the same tensors if nothing is added.

        Raises:
            BadInput: inputs and targets are not tensors of equal length, or `tasks` has numbers of no task so far.
        """
        both = isinstance(inputs, Tensor) and isinstance(targets, Tensor) and inputs.ndim and targets.ndim
        if not both or len(inputs) != len(targets):
            raise BadInput("run.batch takes inputs and targets: two tensors of the same length")
        made = Made(inputs, targets, self._checked(tasks, inputs))
        for applied, call in self._due(Stage.BATCH):
            with self._treatments.guarded(applied):
                made = self._extended(applied, call, made)
        if any(Stage.BATCH in applied.treatment.lines for applied in self._treatments.applied):
            self._treatments.network.composition.give(self._treatments.network.model)
        self._treatments.network.composition.begin(made.tasks, self._treatments.task + 1)
        return made.inputs, made.targets

    def _checked(self, tasks: Tensor | None, inputs: Tensor) -> Tensor | None:
        if tasks is None:
            return None
        items = len(inputs)
        whole = isinstance(tasks, Tensor) and tasks.shape == (items,) and not tasks.is_floating_point()
        if not whole or (items and not 0 <= int(tasks.min()) <= int(tasks.max()) <= self._treatments.task):
            begun = self._treatments.task + 1
            raise BadInput(f"run.batch(tasks=...) takes for each of the {items} items the number of one of the {begun} "
                           "tasks begun so far, from 0; a task begins with run.boundary(...)")  # fmt: skip
        return tasks.to(inputs.device, torch.int64)

    def loss(self, criterion: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The user's loss function, with the changes of treatments to its outputs.

        Args:
            criterion: called as criterion(outputs, targets, ...).

        Returns:
            A function of the same arguments, plus what inserted modules add for the forward passes of this
            batch (once). Outputs without gradient (evaluation) are not changed.
        """
        if not callable(criterion):
            raise BadInput(f"run.loss takes the loss function, got {type(criterion).__name__}")

        def treated(outputs: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if not (isinstance(outputs, Tensor) and outputs.requires_grad and isinstance(targets, Tensor)):
                return criterion(outputs, targets, *args, **kwargs)
            for applied, call in self._due(Stage.LOSS):
                with self._treatments.guarded(applied):
                    outputs = self._masked(applied, call, outputs, targets)
            loss = criterion(outputs, targets, *args, **kwargs)
            for added in self._treatments.network.composition.take():
                loss = loss + added.to(loss.dtype)
            return loss

        return treated if isinstance(criterion, torch.nn.Module) else functools.wraps(criterion)(treated)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Inside, treatments change the network for an evaluation; afterwards it is restored bit for bit.

        May be nested. An optimizer step inside is undone, with a warning.
        """
        self._opened.add(Stage.EVALUATION)
        step, done = self._treatments.network.step, []
        self._evaluating += 1
        try:
            if self._evaluating == 1:
                for applied in self._treatments.ready(Stage.EVALUATION, step):
                    with self._treatments.guarded(applied):
                        done += self._shown(applied, step)
            yield
        finally:
            self._evaluating -= 1
            for log in reversed(done):
                log.undo()
            if done and self._treatments.network.step != step:
                warnings.warn(
                    "homeostat: the optimizer stepped inside run.evaluation(), and its step was undone",
                    RuntimeWarning,
                    stacklevel=3,
                )

    def never_opened(self) -> dict[str, str]:
        """Treatment -> why it never acted, for treatments whose stage the loop did not open."""
        opened = self._opened | ({Stage.BOUNDARY} if self._treatments.task else set[Stage]())
        asked = {c.name: c.treatment.stage for c in self._treatments.applied if c.treatment.stage in LINES}
        partly = {c.name: [s for s in c.treatment.lines if s not in opened] for c in self._treatments.applied}
        wholly = {
            name: f"it never acted: {LINES[stage]} was not called in the loop"
            for name, stage in asked.items()
            if stage not in opened
        }
        return wholly | {
            name: f"a part of it never acted: {' and '.join(LINES[s] for s in missing)} was not called in the loop"
            for name, missing in partly.items()
            if missing
        }

    def _due(self, stage: Stage) -> list[tuple[AppliedTreatment, int]]:
        """The treatments that act now, with the number of this call within the step."""
        self._opened.add(stage)
        step = self._treatments.network.step + 1
        at, calls = self._calls.get(stage, (step, 0))
        number = calls if at == step else 0
        self._calls[stage] = (step, number + 1)
        return [(applied, number) for applied in self._treatments.ready(stage, step)]

    def _view(self, applied: AppliedTreatment, call: int, **seen: Tensor) -> View:
        view = self._treatments.view(applied, self._treatments.network.step + 1, {})
        return replace(view, draw=view.draw.at(call), **{name: value.detach() for name, value in seen.items()})

    def _extended(self, applied: AppliedTreatment, call: int, made: Made) -> Made:
        view = self._view(applied, call, inputs=made.inputs, targets=made.targets)
        edits, state = applied.treatment.plan(view, applied.state, applied.knobs)
        inputs, targets = extend(edits, made.inputs, made.targets)
        applied.state = state
        if not self._treatments.carry_out(applied, edits, view.step):
            return made
        return Made(inputs, targets, composed(edits, made, self._treatments.task))

    def _masked(self, applied: AppliedTreatment, call: int, outputs: Tensor, targets: Tensor) -> Tensor:
        view = self._view(applied, call, outputs=outputs, targets=targets)
        edits, state = applied.treatment.plan(view, applied.state, applied.knobs)
        with torch.enable_grad():
            masked = mask(edits, outputs)
        applied.state = state
        return masked if self._treatments.carry_out(applied, edits, view.step) else outputs

    def _shown(self, applied: AppliedTreatment, step: int) -> list[UndoLog]:
        network = self._treatments.network
        edits, applied.state = applied.treatment.plan(
            self._treatments.view(applied, step, {}), applied.state, applied.knobs
        )
        if not self._treatments.carry_out(applied, edits, step):
            return []
        return [apply_edits(edits, network.model, network.optimizers, component=applied.name)]


def extend(edits: Sequence[Edit], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The batch with every `ExtendBatch` appended.

    Raises:
        BadInput: another kind of edit, or items of another shape; nothing was changed.
    """
    for edit in edits:
        if not isinstance(edit, ExtendBatch):
            raise BadInput(f"{type(edit).__name__} does not act on a batch")
        if edit.inputs.shape[1:] != inputs.shape[1:] or edit.targets.shape[1:] != targets.shape[1:]:
            raise BadInput(f"items of shape {tuple(edit.inputs.shape[1:])} do not fit into this batch")
        if edit.tasks is not None and edit.tasks.shape != (len(edit.inputs),):
            raise BadInput(f"tasks of shape {tuple(edit.tasks.shape)} for {len(edit.inputs)} items")
        inputs = torch.cat([inputs, edit.inputs.to(inputs)])
        targets = torch.cat([targets, edit.targets.to(targets)])
    return inputs, targets


def composed(edits: Sequence[Edit], made: Made, task: int) -> Tensor | None:
    """The task of every item after the edits; None if an edit does not give the tasks of its items.

    Args:
        made: the batch before.
        task: the current task.
    """
    parts = [made.tasks if made.tasks is not None else torch.full((len(made.inputs),), task)]
    for edit in edits:
        if not isinstance(edit, ExtendBatch) or edit.tasks is None:
            return None
        parts.append(edit.tasks)
    return torch.cat([part.to(made.inputs.device, torch.int64) for part in parts])


def mask(edits: Sequence[Edit], outputs: Tensor) -> Tensor:
    """The outputs with every `MaskOutputs` applied; masked entries have no gradient.

    Raises:
        BadInput: another kind of edit.
    """
    for edit in edits:
        if not isinstance(edit, MaskOutputs):
            raise BadInput(f"{type(edit).__name__} does not act on a loss")
        outputs = torch.where(edit.mask.to(outputs.device), edit.value.detach().to(outputs), outputs)
    return outputs
