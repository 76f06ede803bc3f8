"""A measured network: its module, its optimizers, and the beginning and end of its steps."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from homeostat.core.batch_tasks import Composition
from homeostat.core.dial import LEARNING_RATE, Dial
from homeostat.core.errors import BadInput
from homeostat.diagnosis.facts import OptimizerFacts, RateFacts
from homeostat.shell.ddp.process_group import ProcessGroup
from homeostat.shell.edits.averaged_copies import Averaged
from homeostat.shell.edits.element_steps import ElementSteps
from homeostat.shell.hooks.module_tree import named_modules_in, named_parameters_in, parameters_in
from homeostat.shell.hooks.parameter_changes import ParameterChanges
from homeostat.shell.hooks.torch_internals import is_sharded


class Network:
    """A network and its progress. Keeps neither the module nor the optimizers alive.

    Args:
        label: prefix of the layer names; "" if it is the only network.
        model: the module, without wrappers for compilation or data parallelism.
        optimizers: all optimizers with parameters of the module.
        compiled: whether torch.compile is known to run it, so that hooks on its parts may never fire.

    Attributes:
        step: rounds of optimizer steps completed.
        skipped: steps a GradScaler left out.
        stepped: ids of the optimizers that have stepped in the present round.
        idle: ids of those whose step a GradScaler left out in the present round.
        active: ids of the optimizers that take part in rounds; one that others overtake is left out until it steps.
        no_gradient: parameters in an optimizer that never had a gradient and never changed.
        moved: parameters in no optimizer that changed: averages, copies, updates by hand.
        ranks: the processes that train it together, once they are connected.
        resumed: whether an optimizer already had state, so that training did not start here.
        averaged: the copies that follow edits.
        dials: name -> a number that controllers may set, in addition to the knobs of treatments.
        rate: the learning rate over the run, up to the last step that was read.
        elements: step counts per element, if they are kept.
        composition: the tasks of the current batch, for inserted modules.
        present: whether the script had the module when the facts of the run were last read.
        rebuilt: how often a new optimizer over the same parameters took the place of one that is gone.
    """

    def __init__(self, label: str, model: nn.Module, optimizers: Iterable[Optimizer], compiled: bool = False) -> None:
        self.label, self.compiled = label, compiled
        self.name = type(model).__name__
        self._model = weakref.ref(model)
        self.step = self.skipped = 0
        self.ranks: ProcessGroup | None = None
        self.rebuilt, self._held = 0, frozenset[int]()
        self.train_with(optimizers)
        self.resumed = any(o.state for o in self.optimizers)
        self.no_gradient = set(self.trained())
        self.moved: set[str] = set()
        self._changes = ParameterChanges()
        self.averaged: tuple[Averaged, ...] = ()
        self.dials = {LEARNING_RATE: learning_rate_dial(self)}
        self.elements: ElementSteps | None = None
        self.rate = RateFacts()
        self.composition = Composition()
        self.present = True
        self._unheld: tuple[list[str], list[str]] = ([], [])
        self._facts = list[tuple[int, OptimizerFacts]]()

    @property
    def alive(self) -> bool:
        """Whether the script still has the module."""
        return self._model() is not None

    @property
    def model(self) -> nn.Module:
        """The module; an empty module if the script has deleted it."""
        model = self._model()
        return nn.Module() if model is None else model

    @property
    def optimizers(self) -> list[Optimizer]:
        """The existing optimizers, oldest first."""
        return [o for ref in self._optimizers if (o := ref()) is not None]

    def train_with(self, optimizers: Iterable[Optimizer]) -> None:
        """Set the optimizers that train the network from now on."""
        self._optimizers = [weakref.ref(o) for o in optimizers]
        self.active, self.stepped, self.idle = {id(o) for o in self.optimizers}, set[int](), set[int]()
        self._held = frozenset(id(p) for o in self.optimizers for group in o.param_groups for p in group["params"])

    def succeeded_by(self, optimizer: Optimizer) -> bool:
        """Whether the optimizers are gone, and this one holds the same parameters."""
        if self.optimizers or not self.alive:
            return False
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return held == self._held and held <= {id(p) for p in parameters_in(self.model)}

    def completes_round(self, optimizer: Optimizer) -> bool:
        """Note a step of an optimizer. Return whether every active one has stepped or skipped."""
        key = id(optimizer)
        self.stepped.add(key)
        if key not in self.active:
            self.active.add(key)
        return self.active <= (self.stepped | self.idle if self.idle else self.stepped)

    def sits_out(self, optimizer: Optimizer) -> bool:
        """Note a skipped step of an optimizer. Return whether every active one has stepped or skipped."""
        self.skipped += 1
        self.idle.add(id(optimizer))
        return self.active <= self.stepped | self.idle

    def next_round(self) -> bool:
        """End the round. Return whether it was a step, that is, whether an optimizer stepped."""
        moved = bool(self.stepped)
        self.stepped.clear()
        if self.idle:
            self.idle.clear()
        self.step += moved
        if self.composition.tasks is not None or self.composition.added:
            self.composition.clear()
        return moved

    def named(self, layer: str) -> str:
        """The layer's name in records and findings."""
        return f"{self.label}.{layer}" if self.label else layer

    def trained(self, of: Optimizer | None = None) -> dict[str, nn.Parameter]:
        """Parameters that require a gradient and are in an optimizer (or in the given one), by name."""
        holders = self.optimizers if of is None else [of]
        held = {id(p) for o in holders for group in o.param_groups for p in group["params"]}
        return {n: p for n, p in named_parameters_in(self.model) if p.requires_grad and id(p) in held}

    def held_twice(self) -> str:
        """A parameter in two optimizers, or ""."""
        seen: set[str] = set()
        for optimizer in self.optimizers:
            held = set(self.trained(optimizer))
            if shared := sorted(seen & held):
                return shared[0]
            seen |= held
        return ""

    def sharded(self) -> str:
        """A parameter of which this process has only a part (DTensor, FullyShardedDataParallel), or ""."""
        for name, parameter in self.trained().items():
            if is_sharded(name, parameter):
                return name
        return ""

    @property
    def device(self) -> torch.device:
        """The device of its first parameter."""
        return next((p.device for p in parameters_in(self.model)), torch.device("cpu"))

    def values(self) -> dict[str, Tensor]:
        """Current values of the trained parameters, detached."""
        return {n: p.detach() for n, p in self.trained().items()}

    def kinds(self) -> dict[str, type[nn.Module]]:
        """Class of every module, by its first name."""
        return {name: type(module) for name, module in named_modules_in(self.model)}

    def gradients(self, scale: Tensor | None = None, of: Optimizer | None = None) -> dict[str, Tensor]:
        """Current gradients of the trained parameters (or of one optimizer's), unscaled."""
        grads = {n: p.grad.detach() for n, p in self.trained(of).items() if p.grad is not None}
        return grads if scale is None else {n: g / scale for n, g in grads.items()}

    def learning_rate(self) -> float:
        """The learning rate of the first parameter group."""
        first = self.optimizers[:1]
        return float(first[0].param_groups[0].get("lr", float("nan"))) if first else float("nan")

    def optimizer_facts(self) -> list[tuple[int, OptimizerFacts]]:
        """(id, facts) of the optimizers for the diagnosis; the last known ones if the script has deleted them."""
        if not self.optimizers:
            return self._facts
        self._facts = [
            (
                id(o),
                OptimizerFacts(
                    type(o).__name__,
                    float(o.param_groups[0].get("lr", float("nan"))),
                    float(o.param_groups[0].get("momentum", 0.0)),
                    float(o.param_groups[0].get("weight_decay", 0.0)),
                    self.label,
                ),
            )
            for o in self.optimizers
        ]
        return self._facts

    def unheld(self) -> tuple[list[str], list[str]]:
        """Parameters that require a gradient, are in no optimizer and never changed: those with a gradient, and those
        without; the last known ones if the script has deleted the module."""
        if not self.alive:
            return self._unheld
        trained = self.trained()
        rest = {n: p for n, p in named_parameters_in(self.model) if p.requires_grad and n not in trained}
        self.moved |= {n for n, p in rest.items() if n not in self.moved and self._changes.changed(p)}
        got = [n for n, p in rest.items() if n not in self.moved and p.grad is not None]
        self._unheld = got, [n for n in rest if n not in self.moved and n not in got]
        return self._unheld

    def updated_by_hand(self) -> list[str]:
        """Parameters with gradients that are in no optimizer and change."""
        parameters = dict(named_parameters_in(self.model))
        return [n for n in sorted(self.moved) if n in parameters and parameters[n].grad is not None]

    def update_no_gradient(self) -> None:
        """Remove parameters that have a gradient or have changed from `no_gradient`.

        A part that is trained on other steps than those that are read has no gradient on these.
        """
        if self.no_gradient:
            parameters = self.trained()
            without = [n for n in self.no_gradient if n in parameters and parameters[n].grad is None]
            self.no_gradient = {n for n in without if not self._changes.changed(parameters[n])}

    def update_rate(self) -> None:
        """Note the current learning rate."""
        now = self.learning_rate()
        if now == now:
            highest = max(now, self.rate.highest) if self.rate.highest == self.rate.highest else now
            since = self.step if self.rate.spent_since is None else self.rate.spent_since
            first = self.rate.first if self.rate.first == self.rate.first else now
            spent = now < highest / 100 and not 0 < first <= now
            self.rate = RateFacts(highest, now, since if spent else None, first)

    def shapes(self) -> dict[str, list[Any]]:
        """Name in the module's state_dict -> [dtype, *shape] of every tensor."""
        return {k: [str(v.dtype), *v.shape] for k, v in self.model.state_dict().items() if isinstance(v, Tensor)}

    def state_dict(self) -> dict[str, Any]:
        """Steps and whose turn it is; not the module and the optimizers themselves."""
        turn = {"stepped": self.stepped, "idle": self.idle, "active": self.active}
        return {
            "step": self.step,
            "skipped": self.skipped,
            "resumed": self.resumed,
            "no_gradient": sorted(self.no_gradient),
            "moved": sorted(self.moved),
            "turns": [{word: id(o) in ids for word, ids in turn.items()} for o in self.optimizers],
            "rate": [self.rate.highest, self.rate.now, self.rate.spent_since, self.rate.first],
            "elements": None if self.elements is None else self.elements.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.step, self.skipped, self.resumed = state["step"], state["skipped"], state["resumed"]
        self.no_gradient, self.moved = set(state["no_gradient"]), set(state.get("moved", ()))
        self.rate = RateFacts(*state["rate"])
        turns = list(zip(self.optimizers, state["turns"], strict=True))
        self.stepped, self.idle, self.active = (
            {id(o) for o, turn in turns if turn[word]} for word in ("stepped", "idle", "active")
        )
        if state["elements"] is not None:
            self.elements = ElementSteps(state["elements"])


def learning_rate_dial(network: Network) -> Dial:
    """A dial for the learning rate of the first parameter group; all groups of all optimizers are scaled alike."""

    def turn(value: float) -> None:
        scale = value / max(network.learning_rate(), 1e-30)
        for optimizer in network.optimizers:
            for group in optimizer.param_groups:
                scale_rate(group, scale)

    return Dial(network.learning_rate, turn, low=0.0, unit="1/step")


def scale_rate(group: dict[str, Any], scale: float) -> None:
    """Multiply the learning rate of a parameter group, in place if it is a tensor (capturable optimizers)."""
    if isinstance(group["lr"], Tensor):
        group["lr"].mul_(scale)
    else:
        group["lr"] *= scale


def check_pair(model: Any, optimizers: list[Any]) -> None:
    """Check that a model and optimizers belong together.

    Raises:
        BadInput: not a module, no optimizer, no parameters, or an optimizer over other parameters.
    """
    if not isinstance(model, nn.Module):
        raise BadInput(f"model must be a torch.nn.Module, got {type(model).__name__}")
    parameters = {id(p) for p in parameters_in(model)}
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
