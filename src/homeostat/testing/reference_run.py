"""The reference run of the law "one trajectory": a treated run without hooks.

Every stage of a step at which a treatment acts is one explicit call: penalties right before the optimizer reads the
gradients, resets right after its update. Attached runs are compared with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from homeostat.core.random import Draw
from homeostat.core.treatment import Stage, Treatment, View
from homeostat.testing.grid import Case
from homeostat.testing.mini_run import BOUNDARY_EVERY, Bench, Event

Parameters = list[nn.Parameter]
MakeOptimizer = Callable[[Parameters], torch.optim.Optimizer]
Clip = Callable[[Parameters], object]


@dataclass(frozen=True, eq=False)
class RunSetup:
    """What a run trains, with which optimizer, and with which user settings.

    Args:
        case: the network and its data.
        optimizer: creates the optimizer of all parameters.
        clip: clips the gradients before the step.
        placed: add penalties before the clip instead of after it.
        autocast: run the forward pass and the loss under bfloat16 autocast.
        rate: factor of the learning rate by step number.
    """

    case: Case
    optimizer: MakeOptimizer
    clip: Clip | None = None
    placed: bool = False
    autocast: bool = False
    rate: Callable[[int], float] = lambda number: 1.0


def casting(setup: RunSetup) -> contextlib.AbstractContextManager[object]:
    """Context manager for the forward pass and the loss."""
    return torch.autocast("cpu", torch.bfloat16) if setup.autocast else contextlib.nullcontext()


class OpenRun(Bench):
    """A treated run without hooks.

    Args:
        setup: what is trained.
        treatment: None trains without a treatment.
    """

    def __init__(self, setup: RunSetup, treatment: Treatment | None) -> None:
        self.setup = setup
        self._made: torch.optim.Optimizer | None = None
        super().__init__(setup.case, treatment)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, created at first use, before the treatment starts."""
        if self._made is None:
            self._made = self.setup.optimizer([p for p in self.model.parameters() if p.requires_grad])
            self._rates = [group["lr"] for group in self._made.param_groups]
        return self._made

    @optimizer.setter
    def optimizer(self, _: torch.optim.Optimizer) -> None:
        """Not used: the setup chooses the optimizer."""

    def view(self, copied: bool = False) -> View:
        """The view of an attached run, whose draws include the (empty) label of the network."""
        view = super().view(copied)
        name = self.treatment.name if self.treatment else ""
        rate = float(self.optimizer.param_groups[0]["lr"])
        return replace(view, draw=Draw(self.seed, (name, "", self.step)), learning_rate=rate)

    def go(self, steps: int) -> dict[str, Tensor]:
        """Perform steps; returns the weights and buffers."""
        self.train(steps)
        return dict(self.model.state_dict())

    def one_step(self) -> Iterator[Event]:
        """One step with every stage at which the treatment acts."""
        self.step += 1
        self._set_rates()
        inputs, targets = self.case.data(self.step)
        self.optimizer.zero_grad()
        with casting(self.setup):
            loss = F.cross_entropy(self.forward(inputs), targets)
        loss.backward()
        yield from self._gradients()
        self.note_before()
        self.optimizer.step()
        yield from self.act(Stage.UPDATE)
        if self.step % BOUNDARY_EVERY == 0:
            self.task += 1
            yield from self.act(Stage.BOUNDARY)

    def _set_rates(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.setup.rate(self.step)

    def _gradients(self) -> Iterator[Event]:
        clip = self.setup.clip or (lambda parameters: None)
        if self.setup.placed:
            yield from self.act(Stage.GRADIENT)
        clip(list(self.trained.values()))
        if not self.setup.placed:
            yield from self.act(Stage.GRADIENT)
