"""One network under observation: its module, its optimizers, and where a step begins and ends."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from homeostat.core.composition import Composition
from homeostat.core.errors import BadInput
from homeostat.diagnosis.facts import OptimizerFacts
from homeostat.shell.averages import Averaged
from homeostat.shell.dials import learning_rate_dial
from homeostat.shell.elements import ElementSteps
from homeostat.shell.ranks import Ranks
from homeostat.shell.settings import LEARNING_RATE


class Network:
    """A network and how far it has come. Holds neither the module nor the optimizers alive.

    Args:
        label: "" when it is the only one; else it prefixes every layer name.
        model: the module, outside of any compile or data-parallel wrapper.
        optimizers: all that hold some of its parameters.
        compiled: torch.compile is known to run it, so hooks on its parts may never fire.

    Attributes:
        step: rounds of optimizer steps completed.
        skipped: steps a GradScaler left out.
        losses: loss of each step since the last sample, folded now and then so that memory stays bounded.
        stepped: ids of the optimizers that have stepped in the present round.
        idle: ids of those whose step a GradScaler left out in the present round.
        active: ids of the optimizers that take part in rounds; one that others overtake is left out until it steps.
        no_gradient: parameters held by an optimizer that never had a gradient so far.
        ranks: the processes that train it together, once they have met.
        resumed: an optimizer had state already, so training did not start here.
        averaged: the copies that follow what surgery does.
        dials: what controllers may turn beside knobs of treatments, by name.
        elements: step counts of single elements, where they are kept.
        composition: of which tasks the batch being learned from is made, for modules that surgery puts in.
    """

    def __init__(self, label: str, model: nn.Module, optimizers: Iterable[Optimizer], compiled: bool = False) -> None:
        self.label, self.compiled = label, compiled
        self.name = type(model).__name__
        self._model = weakref.ref(model)
        self.step = self.skipped = 0
        self.ranks: Ranks | None = None
        self.losses: list[Tensor] = []
        self.folded: tuple[Tensor | None, int] = (None, 0)
        self.train_with(optimizers)
        self.resumed = any(o.state for o in self.optimizers)
        self.no_gradient = set(self.trained())
        self.averaged: tuple[Averaged, ...] = ()
        self.dials = {LEARNING_RATE: learning_rate_dial(self)}
        self.elements: ElementSteps | None = None
        self.composition = Composition()

    @property
    def alive(self) -> bool:
        """Whether the script still holds the module."""
        return self._model() is not None

    @property
    def model(self) -> nn.Module:
        """The module; an empty one when the script has let it go."""
        model = self._model()
        return nn.Module() if model is None else model

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers that are alive, oldest first."""
        return [o for ref in self._optimizers if (o := ref()) is not None]

    def train_with(self, optimizers: Iterable[Optimizer]) -> None:
        """These optimizers train the network from now on."""
        self._optimizers = [weakref.ref(o) for o in optimizers]
        self.active, self.stepped, self.idle = {id(o) for o in self.optimizers}, set[int](), set[int]()

    def completes_round(self, optimizer: Optimizer) -> bool:
        """Take in that this optimizer stepped; whether every active one has had its turn."""
        self.stepped.add(id(optimizer))
        self.active.add(id(optimizer))
        return self.active <= (self.stepped | self.idle if self.idle else self.stepped)

    def sits_out(self, optimizer: Optimizer) -> bool:
        """Take in that this optimizer's step was left out; whether every active one has had its turn."""
        self.skipped += 1
        self.idle.add(id(optimizer))
        return self.active <= self.stepped | self.idle

    def next_round(self) -> bool:
        """The round is over; whether it was a step, which it is when an optimizer stepped."""
        moved = bool(self.stepped)
        self.stepped.clear()
        self.idle.clear()
        self.step += moved
        self.composition.clear()
        return moved

    def add_loss(self, loss: Tensor) -> None:
        """Keep the loss of a step, on its device."""
        self.losses.append(loss)
        if len(self.losses) >= 512:
            self._fold()

    def mean_loss(self) -> Tensor | None:
        """Mean loss over the steps since the last call, 0-dim, or None when there was none."""
        self._fold()
        (total, count), self.folded = self.folded, (None, 0)
        return None if total is None else total / count

    def _fold(self) -> None:
        if self.losses:
            total, count = self.folded
            added = torch.stack([loss.float() for loss in self.losses]).sum()
            self.folded = (added if total is None else total + added, count + len(self.losses))
            self.losses.clear()

    def named(self, layer: str) -> str:
        """The layer's name in records and findings."""
        return f"{self.label}.{layer}" if self.label else layer

    def trained(self, of: Optimizer | None = None) -> dict[str, nn.Parameter]:
        """Parameters that require a gradient and that an optimizer (or this one) holds, by name."""
        holders = self.optimizers if of is None else [of]
        held = {id(p) for o in holders for group in o.param_groups for p in group["params"]}
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad and id(p) in held}

    def held_twice(self) -> str:
        """A parameter that two optimizers hold, or ""."""
        seen: set[str] = set()
        for optimizer in self.optimizers:
            held = set(self.trained(optimizer))
            if shared := sorted(seen & held):
                return shared[0]
            seen |= held
        return ""

    def sharded(self) -> str:
        """A parameter that is only partly in this process (DTensor, FullyShardedDataParallel), or ""."""
        for name, parameter in self.trained().items():
            if type(parameter).__name__ in ("DTensor", "FlatParameter") or "_fsdp_wrapped_module" in name:
                return name
        return ""

    @property
    def device(self) -> torch.device:
        """Of its first parameter."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def values(self) -> dict[str, Tensor]:
        """Present values of the trained parameters, detached."""
        return {n: p.detach() for n, p in self.trained().items()}

    def kinds(self) -> dict[str, type[nn.Module]]:
        """Class of every module, by its first name."""
        return {name: type(module) for name, module in self.model.named_modules()}

    def gradients(self, scale: Tensor | None = None, of: Optimizer | None = None) -> dict[str, Tensor]:
        """Present gradients of the trained parameters (of those one optimizer holds), unscaled."""
        grads = {n: p.grad.detach() for n, p in self.trained(of).items() if p.grad is not None}
        return grads if scale is None else {n: g / scale for n, g in grads.items()}

    def learning_rate(self) -> float:
        """Of the first parameter group."""
        first = self.optimizers[:1]
        return float(first[0].param_groups[0].get("lr", float("nan"))) if first else float("nan")

    def optimizer_facts(self) -> list[OptimizerFacts]:
        """What diagnosis knows of the optimizers."""
        return [
            OptimizerFacts(
                type(o).__name__,
                float(o.param_groups[0].get("lr", float("nan"))),
                float(o.param_groups[0].get("momentum", 0.0)),
                self.label,
            )
            for o in self.optimizers
        ]

    def unheld(self) -> tuple[list[str], list[str]]:
        """Parameters that require a gradient but that no optimizer holds: those with a gradient, and those without."""
        trained = self.trained()
        rest = {n: p for n, p in self.model.named_parameters() if p.requires_grad and n not in trained}
        got = [n for n, p in rest.items() if p.grad is not None]
        return got, [n for n in rest if n not in got]

    def watch_gradients(self) -> None:
        """Strike the parameters that have a gradient now off the list of those that never had one."""
        if self.no_gradient:
            parameters = self.trained()
            self.no_gradient = {n for n in self.no_gradient if n in parameters and parameters[n].grad is None}


def check_pair(model: Any, optimizers: list[Any]) -> None:
    """A model and optimizers that belong together.

    Raises:
        BadInput: not a module, no optimizer, no parameters, or an optimizer over other parameters.
    """
    if not isinstance(model, nn.Module):
        raise BadInput(f"model must be a torch.nn.Module, got {type(model).__name__}")
    parameters = {id(p) for p in model.parameters()}
    if not parameters:
        raise BadInput(f"{type(model).__name__} has no parameters: there is nothing to measure or treat")
    for optimizer in optimizers:
        if not isinstance(optimizer, Optimizer):
            raise BadInput(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not held & parameters:
            raise BadInput(
                f"{type(optimizer).__name__} holds no parameter of this {type(model).__name__}: build it from "
                "model.parameters() of the model you attach"
            )
    if not optimizers:
        raise BadInput("give the optimizer that trains the model: attach(model, optimizer)")
