"""Styles of training loops, for the law "one trajectory"."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.utils.checkpoint import checkpoint

from homeostat.core.treatment import Treatment
from homeostat.shell.attach import AttachedRun, attach
from homeostat.testing.grid import DOUBLE, FROZEN, MLP, Case, group
from homeostat.testing.mini_run import BOUNDARY_EVERY
from homeostat.testing.reference_run import Parameters, RunSetup, casting

RATE = 1e-2


@dataclass(eq=False)
class StyledLoop:
    """A user's loop with a run attached.

    Args:
        setup: the network, its data and the user's settings.
        model, optimizers: fresh objects.
        run: the attached run.
    """

    setup: RunSetup
    model: nn.Module
    optimizers: list[Optimizer]
    run: AttachedRun
    more: dict[str, Any] = field(default_factory=dict)

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        return self.setup.case.data(number)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with casting(self.setup):
            return F.cross_entropy(self.model(inputs), targets)

    def zero(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def parameters(self) -> Parameters:
        return [p for p in self.model.parameters() if p.requires_grad]


Step = Callable[[StyledLoop, int], None]


@dataclass(frozen=True)
class Way:
    """One loop style, and the reference run whose trajectory it must reproduce.

    Args:
        name: description of the style.
        step: performs one step.
        setup: setup of the reference run.
        build: wraps the network of the case, for example for checkpointing.
        optimizers: creates the optimizers of the loop; by default that of the setup.
        tolerance: largest difference of a weight after the run; 0 is bit for bit.
    """

    name: str
    step: Step
    setup: RunSetup
    build: Callable[[nn.Module], nn.Module] = lambda model: model
    optimizers: Callable[[Parameters], list[Optimizer]] | None = None
    tolerance: float = 1e-9

    def go(self, treatment: Treatment | None, steps: int) -> dict[str, Tensor]:
        """Train in this style with the treatment attached; the weights and buffers afterwards."""
        model = self.build(self.setup.case.build(0))
        make = self.optimizers or (lambda parameters: [self.setup.optimizer(parameters)])
        optimizers = make([p for p in model.parameters() if p.requires_grad])
        treatments = [] if treatment is None else [treatment]
        with attach(model, optimizers, treatments=treatments, vitals=["loss"], strict=True) as run:
            loop = StyledLoop(self.setup, model, optimizers, run)
            for number in range(1, steps + 1):
                self.step(loop, number)
                if number % BOUNDARY_EVERY == 0:
                    run.boundary(f"task {number}")
        return dict(model.state_dict())


def eager(it: StyledLoop, number: int) -> None:
    """The plain loop."""
    it.zero()
    it.loss(*it.batch(number)).backward()
    for optimizer in it.optimizers:
        optimizer.step()


def accumulated(it: StyledLoop, number: int) -> None:
    """Four micro-batches per step."""
    it.zero()
    inputs, targets = it.batch(number)
    for x, y in zip(inputs.chunk(4), targets.chunk(4), strict=True):
        (it.loss(x, y) / 4).backward()
    it.optimizers[0].step()


def evaluated(it: StyledLoop, number: int) -> None:
    """Four micro-batches per step, with evaluations in between, with and without gradients."""
    it.zero()
    inputs, targets = it.batch(number)
    for x, y in zip(inputs.chunk(4), targets.chunk(4), strict=True):
        (it.loss(x, y) / 4).backward()
        it.model.eval()
        it.model(100 * inputs)
        with torch.no_grad():
            it.model.train()
            it.model(-100 * inputs)
    it.optimizers[0].step()


def closure(it: StyledLoop, number: int) -> None:
    """The loss is evaluated inside `step`."""

    def evaluate() -> Tensor:
        it.zero()
        loss = it.loss(*it.batch(number))
        loss.backward()
        return loss

    it.optimizers[0].step(evaluate)  # type: ignore[arg-type]


def kept_gradients(it: StyledLoop, number: int) -> None:
    """Gradient buffers are zeroed, not freed."""
    it.zero(set_to_none=False)
    it.loss(*it.batch(number)).backward()
    it.optimizers[0].step()


def scaled(it: StyledLoop, number: int) -> None:
    """Gradients scaled by a GradScaler; before every fifth step, one step is skipped for a non-finite gradient."""
    scaler = it.more.setdefault("scaler", torch.amp.GradScaler("cpu", init_scale=2.0**12))
    for factor in (float("inf"), 1.0) if number % 5 == 0 else (1.0,):
        it.zero()
        scaler.scale(it.loss(*it.batch(number)) * factor).backward()
        for optimizer in it.optimizers:
            scaler.step(optimizer)
        scaler.update()


def unscaled(it: StyledLoop, number: int) -> None:
    """The user calls `unscale_` and clips before `scaler.step`; before every fifth step, one step is skipped."""
    scaler = it.more.setdefault("scaler", torch.amp.GradScaler("cpu", init_scale=2.0**12))
    for factor in (float("inf"), 1.0) if number % 5 == 0 else (1.0,):
        it.zero()
        scaler.scale(it.loss(*it.batch(number)) * factor).backward()
        scaler.unscale_(it.optimizers[0])
        _clip(it)
        scaler.step(it.optimizers[0])
        scaler.update()


def clipped(it: StyledLoop, number: int) -> None:
    """The user clips the gradients before the step."""
    it.zero()
    it.loss(*it.batch(number)).backward()
    _clip(it)
    it.optimizers[0].step()


def _clip(it: StyledLoop) -> None:
    if it.setup.placed:
        it.run.before_clip()
    if it.setup.clip is not None:
        it.setup.clip(it.parameters())


def scheduled(it: StyledLoop, number: int) -> None:
    """A scheduler sets the learning rate; it wraps the optimizer's `step`."""
    rates = it.setup.rate
    schedule = torch.optim.lr_scheduler.LambdaLR
    scheduler = it.more.get("scheduler") or schedule(it.optimizers[0], lambda done: rates(done + 1))
    it.more["scheduler"] = scheduler
    eager(it, number)
    scheduler.step()


class Rematerialised(nn.Sequential):
    """A Sequential that recomputes its layers after the first two in the backward pass."""

    reentrant = False

    def forward(self, input: Tensor) -> Tensor:
        """As a Sequential."""
        head, tail = list(self)[:2], list(self)[2:]
        for layer in head:
            input = layer(input)
        return checkpoint(nn.Sequential(*tail), input, use_reentrant=self.reentrant)  # type: ignore[return-value]


class Reentrant(Rematerialised):
    """The same with torch's older, re-entrant implementation."""

    reentrant = True


def _as(kind: type[nn.Module]) -> Callable[[nn.Module], nn.Module]:
    def build(model: nn.Module) -> nn.Module:
        model.__class__ = kind
        return model

    return build


def _adam(**options: Any) -> Callable[[Parameters], Optimizer]:
    return lambda parameters: Adam(parameters, **{"lr": RATE, "foreach": False, **options})


def _fused(parameters: Parameters) -> list[Optimizer]:
    return [Adam(parameters, RATE, fused=True)]


def _grouped(parameters: Parameters) -> Optimizer:
    weights, others = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim < 2]
    groups = [
        {"params": weights[:1]},
        {"params": weights[1:], "weight_decay": 1e-2},
        {"params": others, "lr": RATE / 3},
    ]
    return AdamW(groups, RATE, weight_decay=0.0)


def _two(parameters: Parameters) -> list[Optimizer]:
    return [Adam(parameters[:2], RATE, foreach=False), Adam(parameters[2:], RATE, foreach=False)]


def _tied() -> nn.Module:
    widths = (5, 8, 9, 9, 9, 3)
    layers = [module for fan in pairwise(widths) for module in (nn.Linear(*fan), nn.ReLU())]
    model = nn.Sequential(*layers[:-1])
    model[6].weight = model[4].weight
    return model


# units of frozen layers are refused, and so are units whose weights are used in two places
PART = replace(FROZEN, groups=FROZEN.groups[1:], taps={"2": "3"})
TIED = Case("tied weights", _tied, (group("0", 8, "2"),), {"0": "1"}, dtype=torch.float64)
CORE = (
    "the plain loop",
    "accumulation with evaluation in between",
    "step(closure)",
    "GradScaler",
    "a fused optimizer with GradScaler",
    "two optimizers with GradScaler",
    "gradient checkpointing",
    "before_clip() and clipping by norm",
    "GradScaler, unscale_ and clipping by norm",
    "a scheduler",
    "several parameter groups",
    "tied weights",
    "autocast and GradScaler",
)
"""One style of each kind, for every check; a thorough check uses all styles."""
PLAIN = RunSetup(DOUBLE, _adam())
NORM: Any = lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.05)  # noqa: E731
VALUE: Any = lambda parameters: nn.utils.clip_grad_value_(parameters, 0.01)  # noqa: E731
_HALVED: Any = lambda number: 1.0 if number <= 6 else 0.25  # noqa: E731
_OPTIMIZERS: dict[str, Callable[[Parameters], Optimizer]] = {
    "SGD": lambda p: SGD(p, RATE),
    "SGD with Nesterov momentum and weight decay": lambda p: SGD(p, RATE, 0.9, weight_decay=1e-2, nesterov=True),
    "AdamW with AMSGrad": lambda p: AdamW(p, RATE, weight_decay=0.1, amsgrad=True),
    "RMSprop": lambda p: RMSprop(p, RATE, momentum=0.5, centered=True),
    "Adam, foreach": lambda p: Adam(p, RATE, foreach=True),
    "several parameter groups": _grouped,
}


def ways(thorough: bool = True) -> list[Way]:
    """All styles if `thorough`, else one of each kind; those with the plain loop's trajectory come first."""
    every = [*_like_the_plain_loop(), *_other_trajectories()]
    return every if thorough else [way for way in every if way.name in CORE]


def _other_trajectories() -> Iterator[Way]:
    for clip, words in ((NORM, "norm"), (VALUE, "value")):
        setup = replace(PLAIN, clip=clip)
        yield Way(f"clipping by {words}", clipped, setup)
        yield Way(f"before_clip() and clipping by {words}", clipped, replace(setup, placed=True))
        yield Way(f"GradScaler, unscale_ and clipping by {words}", unscaled, setup)
        yield Way(f"GradScaler, unscale_, before_clip(), clipping by {words}", unscaled, replace(setup, placed=True))
        yield Way(f"fused, GradScaler, unscale_ and clipping by {words}", unscaled, setup, optimizers=_fused)
    yield Way("a scheduler", scheduled, replace(PLAIN, rate=_HALVED))
    for words, make in _OPTIMIZERS.items():
        yield Way(words, eager, RunSetup(DOUBLE, make))
    yield Way("frozen layers", eager, RunSetup(PART, _adam()), tolerance=0.0)
    yield Way("tied weights", eager, RunSetup(TIED, _adam()))
    cast = RunSetup(MLP, _adam(), autocast=True)
    yield Way("autocast", eager, cast, tolerance=0.0)
    yield Way("autocast and GradScaler", scaled, cast, tolerance=0.0)


def _like_the_plain_loop() -> Iterator[Way]:
    yield Way("the plain loop", eager, PLAIN)
    yield Way("accumulation over 4 micro-batches", accumulated, PLAIN)
    yield Way("accumulation with evaluation in between", evaluated, PLAIN)
    yield Way("step(closure)", closure, PLAIN)
    yield Way("zero_grad(set_to_none=False)", kept_gradients, PLAIN)
    yield Way("GradScaler", scaled, PLAIN)
    yield Way("a fused optimizer", eager, PLAIN, optimizers=_fused)
    yield Way("a fused optimizer with GradScaler", scaled, PLAIN, optimizers=_fused)
    yield Way("two optimizers", eager, PLAIN, optimizers=_two)
    yield Way("two optimizers with GradScaler", scaled, PLAIN, optimizers=_two)
    yield Way("gradient checkpointing", eager, PLAIN, _as(Rematerialised))
    yield Way("gradient checkpointing, re-entrant", eager, PLAIN, _as(Reentrant))
