"""The stages that only a line in the user's loop can open: the batch, the loss, evaluation."""

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
from homeostat.shell import surgery
from homeostat.shell.admission import OPENED_BY
from homeostat.shell.treating import Course, Ward


class Made(NamedTuple):
    """A batch as far as it is made: inputs and targets [N, ...], and the tasks [N] of its items where they are known
    and not all the present one."""

    inputs: Tensor
    targets: Tensor
    tasks: Tensor | None = None


class Stages:
    """Lets the treatments of a network act on its batches, on what its loss sees, and on what is evaluated.

    Args:
        ward: of the network.
    """

    def __init__(self, ward: Ward) -> None:
        self._ward = ward
        self._opened: set[Stage] = set()
        self._calls: dict[Stage, tuple[int, int]] = {}
        self._evaluating = 0

    def batch(self, inputs: Tensor, targets: Tensor, tasks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The batch to learn from: the user's, with what treatments add to it.

        Args:
            inputs, targets: [N, ...] each.
            tasks: [N], see `Run.batch`.

        Returns:
            [N + M, ...] each, the user's items first; the very same tensors when nothing is added.

        Raises:
            BadInput: they are not two tensors of one length, or `tasks` does not number the tasks begun so far.
        """
        both = isinstance(inputs, Tensor) and isinstance(targets, Tensor) and inputs.ndim and targets.ndim
        if not both or len(inputs) != len(targets):
            raise BadInput("run.batch takes inputs and targets: two tensors of the same length")
        made = Made(inputs, targets, self._checked(tasks, inputs))
        for course, call in self._due(Stage.BATCH):
            with self._ward.guarded(course):
                made = self._extended(course, call, made)
        if any(course.treatment.lines for course in self._ward.courses):
            self._ward.network.composition.give(self._ward.network.model)
        self._ward.network.composition.tell(made.tasks, self._ward.task + 1)
        return made.inputs, made.targets

    def _checked(self, tasks: Tensor | None, inputs: Tensor) -> Tensor | None:
        if tasks is None:
            return None
        items = len(inputs)
        whole = isinstance(tasks, Tensor) and tasks.shape == (items,) and not tasks.is_floating_point()
        if not whole or (items and not 0 <= int(tasks.min()) <= int(tasks.max()) <= self._ward.task):
            begun = self._ward.task + 1
            raise BadInput(f"run.batch(tasks=...) takes for each of the {items} items the number of one of the {begun} "
                           "tasks begun so far, from 0; a task begins with run.boundary(...)")  # fmt: skip
        return tasks.to(inputs.device, torch.int64)

    def loss(self, criterion: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The user's loss function, with what treatments change about the outputs it sees.

        Args:
            criterion: called as criterion(outputs, targets, ...).

        Returns:
            A function of the same arguments, plus what modules that surgery put in add for the forward passes of this
            batch (once). Outputs that carry no gradient (evaluation) pass through untouched.
        """
        if not callable(criterion):
            raise BadInput(f"run.loss takes the loss function, got {type(criterion).__name__}")

        def treated(outputs: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if not (isinstance(outputs, Tensor) and outputs.requires_grad and isinstance(targets, Tensor)):
                return criterion(outputs, targets, *args, **kwargs)
            for course, call in self._due(Stage.LOSS):
                with self._ward.guarded(course):
                    outputs = self._masked(course, call, outputs, targets)
            loss = criterion(outputs, targets, *args, **kwargs)
            for added in self._ward.network.composition.take():
                loss = loss + added.to(loss.dtype)
            return loss

        return treated if isinstance(criterion, torch.nn.Module) else functools.wraps(criterion)(treated)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Inside, the network is what treatments want evaluated; afterwards it is bit for bit what it was.

        May be nested. An optimizer step inside is lost, and warned about.
        """
        self._opened.add(Stage.EVALUATION)
        step, done = self._ward.network.step, []
        self._evaluating += 1
        try:
            if self._evaluating == 1:
                for course in self._ward.ready(Stage.EVALUATION, step):
                    with self._ward.guarded(course):
                        done += self._shown(course, step)
            yield
        finally:
            self._evaluating -= 1
            for receipt in reversed(done):
                receipt.undo()
            if done and self._ward.network.step != step:
                warnings.warn(
                    "homeostat: the optimizer stepped inside run.evaluation(), and its step was undone",
                    RuntimeWarning,
                    stacklevel=3,
                )

    def never_opened(self) -> dict[str, str]:
        """Treatment -> why it never acted, of those whose stage the loop did not open."""
        asked = {c.name: c.treatment.stage for c in self._ward.courses if c.treatment.stage in OPENED_BY}
        partly = {c.name: [s for s in c.treatment.lines if s not in self._opened] for c in self._ward.courses}
        wholly = {
            name: f"it never acted: {OPENED_BY[stage]} was not called in the loop"
            for name, stage in asked.items()
            if stage not in self._opened
        }
        return wholly | {
            name: f"a part of it never acted: {' and '.join(OPENED_BY[s] for s in missing)} was not called in the loop"
            for name, missing in partly.items()
            if missing
        }

    def _due(self, stage: Stage) -> list[tuple[Course, int]]:
        """The treatments that act now, with the number of this call within the step."""
        self._opened.add(stage)
        step = self._ward.network.step + 1
        at, calls = self._calls.get(stage, (step, 0))
        number = calls if at == step else 0
        self._calls[stage] = (step, number + 1)
        return [(course, number) for course in self._ward.ready(stage, step)]

    def _view(self, course: Course, call: int, **seen: Tensor) -> View:
        view = self._ward.view(course, self._ward.network.step + 1, {})
        return replace(view, draw=view.draw.at(call), **{name: value.detach() for name, value in seen.items()})

    def _extended(self, course: Course, call: int, made: Made) -> Made:
        view = self._view(course, call, inputs=made.inputs, targets=made.targets)
        edits, state = course.treatment.plan(view, course.state, course.knobs)
        inputs, targets = extend(edits, made.inputs, made.targets)
        course.state = state
        if not self._ward.carry_out(course, edits, view.step):
            return made
        return Made(inputs, targets, composed(edits, made, self._ward.task))

    def _masked(self, course: Course, call: int, outputs: Tensor, targets: Tensor) -> Tensor:
        view = self._view(course, call, outputs=outputs, targets=targets)
        edits, state = course.treatment.plan(view, course.state, course.knobs)
        with torch.enable_grad():
            masked = mask(edits, outputs)
        course.state = state
        return masked if self._ward.carry_out(course, edits, view.step) else outputs

    def _shown(self, course: Course, step: int) -> list[surgery.Receipt]:
        network = self._ward.network
        edits, course.state = course.treatment.plan(self._ward.view(course, step, {}), course.state, course.knobs)
        if not self._ward.carry_out(course, edits, step):
            return []
        return [surgery.apply(edits, network.model, network.optimizers, component=course.name)]


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
    """The task of every item once the edits are made; None where an edit does not tell that of its items.

    Args:
        made: the batch before.
        task: the present one.
    """
    parts = [made.tasks if made.tasks is not None else torch.full((len(made.inputs),), task)]
    for edit in edits:
        if not isinstance(edit, ExtendBatch) or edit.tasks is None:
            return None
        parts.append(edit.tasks)
    return torch.cat([part.to(made.inputs.device, torch.int64) for part in parts])


def mask(edits: Sequence[Edit], outputs: Tensor) -> Tensor:
    """The outputs with every `MaskOutputs` applied; masked entries carry no gradient.

    Raises:
        BadInput: another kind of edit.
    """
    for edit in edits:
        if not isinstance(edit, MaskOutputs):
            raise BadInput(f"{type(edit).__name__} does not act on a loss")
        outputs = torch.where(edit.mask.to(outputs.device), edit.value.detach().to(outputs), outputs)
    return outputs
