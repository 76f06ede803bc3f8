"""Observes the effect of a method in a step, by comparison with the same step of an untreated twin."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .method import KILL_AT, Method, Treated
from .nets import Case, Net

STEPS, NEVER = 30, -1
ROW, MOST, EXACT = 0.05, 1e-2, 1e-9
"""A row was replaced if the method moved some entry by more than ROW and most by more than MOST beside the twin's; what
moved less than EXACT is the twin's."""


@dataclass
class Event:
    """A step in which units were reset.

    Attributes:
        reset: layer -> rows of its weight that the method replaced.
        after, twin: all parameters after the step, treated and untreated, from the same state before it.
        gradients, twin_gradients: as the optimizer was given them.
    """

    step: int
    reset: dict[str, list[int]]
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    twin: dict[str, Tensor]
    gradients: dict[str, Tensor]
    twin_gradients: dict[str, Tensor]


@dataclass
class Bed:
    """A treated network in training."""

    method: Method
    case: Case
    kind: str = "adam"
    kill_at: int = KILL_AT
    seed: int = 0

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.net: Net = self.build()
        with quiet():
            self.treated: Treated = self.method.treat(self.net, lambda p: self.method.make(self.kind, p))
        self.step = 0
        self.gradients: dict[str, Tensor] = {}
        self.treated.base.register_step_pre_hook(self._note)

    def build(self) -> Net:
        """The network as it was before training."""
        return self.case.build(self.method.dtype)

    def batch(self, step: int, size: int = 16) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step."""
        return self.case.batch(step, self.method.dtype, size)

    def _note(self, *_: object) -> None:
        self.gradients = {n: p.grad.clone() for n, p in self.net.parameters.items() if p.grad is not None}

    def values(self) -> dict[str, Tensor]:
        """Copies of all parameters, by the names they had."""
        return {n: p.detach().clone() for n, p in self.net.parameters.items()}

    def twin(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """An untreated copy: values, buffers and optimizer state of now."""
        model = self.build().model
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(self.net.parameters[name])
            for name, value in model.named_buffers():
                value.copy_(self.net.buffers[name])
        optimizer = self.method.make(self.kind, model.parameters())
        for group, old in zip(optimizer.param_groups, self.treated.base.param_groups, strict=True):
            group["lr"] = old["lr"]
        for name, value in model.named_parameters():
            state = self.treated.base.state.get(self.net.parameters[name], {})
            optimizer.state[value] = {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}
            if not optimizer.state[value]:
                del optimizer.state[value]
        return model, optimizer

    def advance(self) -> None:
        """One plain training step under treatment."""
        self.step += 1
        inputs, targets = self.batch(self.step)
        with quiet():
            plain_step(self.treated.model, self.treated.optimizer, inputs, targets)
            self.finish(inputs)

    def finish(self, inputs: Tensor) -> None:
        """What comes after an optimizer step: the method's own call, and the killing."""
        if self.treated.after is not None:
            self.treated.after(self.step, inputs)
        if self.step == self.kill_at:
            self.net.kill()

    def events(self, double_lr_at: int = 0, steps: int = STEPS) -> Iterator[Event]:
        """Train, and report the steps in which rows of some weight were replaced, once units are dead."""
        if self.kill_at == 0:
            self.net.kill()
        while self.step < steps:
            if self.step + 1 == double_lr_at:
                for group in self.treated.base.param_groups:
                    group["lr"] *= 2
            before, (model, optimizer) = self.values(), self.twin()
            inputs, targets = self.batch(self.step + 1)
            plain_step(model, optimizer, inputs, targets)
            twin_gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            self.advance()
            if self.step > self.kill_at:
                twin = {n: p.detach() for n, p in model.named_parameters()}
                after = self.values()
                if reset := self.replaced(after, twin):
                    yield Event(self.step, reset, before, after, twin, self.gradients, twin_gradients)

    def replaced(self, after: dict[str, Tensor], twin: dict[str, Tensor]) -> dict[str, list[int]]:
        """Layer -> rows of its weight that the method replaced.

        All entries differ from the twin's, most of them visibly; entries that are zero now do not count, since they
        may be the outgoing weight of another unit that was reset.
        """
        found = {}
        for name in after:
            layer, _, leaf = name.rpartition(".")
            if leaf != "weight" or after[name].dim() < 2:
                continue
            moved, now = (after[name] - twin[name]).abs().flatten(1), after[name].flatten(1)
            rows = [
                i
                for i, (row, kept) in enumerate(zip(moved, now != 0, strict=True))
                if kept.any() and row[kept].min() > 0 and row[kept].median() > MOST and row[kept].max() > ROW
            ]
            if rows:
                found[layer] = rows
        return found

    def outputs(self, values: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """What an untreated network with these parameter values answers."""
        model = self.build().model
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(values[name])
            for name, value in model.named_buffers():
                value.copy_(self.net.buffers[name])
            return model.eval()(inputs)


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> None:
    """One step as everybody writes it."""
    optimizer.zero_grad()
    F.mse_loss(model(inputs), targets).backward()
    optimizer.step()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Some methods print when they act."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def first_event(
    method: Method, case: Case, kind: str = "adam", kill_at: int = KILL_AT, double_lr_at: int = 0
) -> tuple[Bed, Event | None]:
    """Train until the first reset after units have died."""
    bed = Bed(method, case, kind, kill_at)
    return bed, next(bed.events(double_lr_at), None)
