"""A small training run with one treatment. Edits are applied by the shell; every step of the loop is explicit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from homeostat.core.edits import Edit
from homeostat.core.random import Draw
from homeostat.core.snapshot import Reading
from homeostat.core.treatment import Stage, State, Treatment, View
from homeostat.shell.edits.apply import apply_edits
from homeostat.shell.run.loop_hooks import extend, mask
from homeostat.testing.grid import Case, fresh_of, norms_of
from homeostat.treatments.shapes import statistic_dtype

BOUNDARY_EVERY = 7
_UNTIMED = (Stage.MODULES, Stage.BOUNDARY, Stage.EVALUATION)


def trial_of(treatment: Treatment) -> Treatment:
    """The treatment with settings with which it acts within a few dozen steps."""
    return replace(treatment, **treatment.trial)


@dataclass(eq=False)
class Event:
    """One action of the treatment: its view, its plan, and the result."""

    before: View
    edits: Sequence[Edit]
    after: View


@dataclass(eq=False)
class Bench:
    """Trains a network of the grid, treated or not.

    Args:
        case: the network.
        treatment: None trains without a treatment.
        adam: use Adam instead of SGD with momentum.
        seed: seed of the network and the treatment.
    """

    case: Case
    treatment: Treatment | None = None
    adam: bool = True
    seed: int = 0
    step: int = 0
    state: State = field(default_factory=dict)
    task: int = 0
    seen: dict[str, Tensor] = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)
    before: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model = self.case.build(self.seed)
        self.look()
        parameters = list(self.trained.values())
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, foreach=True)
        if self.adam:
            self.optimizer = torch.optim.Adam(parameters, lr=1e-2, foreach=True)
        self.fresh, self.norms = fresh_of(self.model), norms_of(self.model)
        self.initial = {n: p.clone() for n, p in self.parameters().items()}
        self.activations: dict[str, Tensor] = {}
        self.outputs, self.begun = torch.empty(0), list[Event]()
        if self.treatment is not None:
            self.knobs = self.treatment.knobs()
            self.state = self.treatment.init(self.view(), self.knobs)
            self.begun = self.act(Stage.MODULES)

    @property
    def stage(self) -> Stage | None:
        """Stage at which the treatment acts."""
        return self.treatment.stage if self.treatment is not None else None

    def look(self) -> None:
        """Store the current parameters of the network."""
        self.trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def parameters(self) -> dict[str, Tensor]:
        """Trainable parameters, detached (not copied)."""
        return {n: p.detach() for n, p in self.trained.items()}

    def view(self, copied: bool = False) -> View:
        """The current view for a treatment."""
        gradients = {n: p.grad for n, p in self.trained.items() if p.grad is not None}
        view = View(
            step=self.step,
            parameters=self.parameters(),
            buffers=dict(self.model.named_buffers()) if self.norms else {},
            gradients=gradients,
            before=self.before,
            initial=self.initial,
            units=self.case.groups,
            activations=dict(self.activations),
            fresh=self.fresh,
            norms=self.norms,
            draw=Draw(self.seed, (self.treatment.name if self.treatment else "", self.step)),
            learning_rate=1e-2,
            task=self.task,
            kinds={name: type(module) for name, module in self.model.named_modules()},
            **{name: tensor.detach() for name, tensor in (self.seen or self.last).items()},
        )
        return frozen(view) if copied else view

    def train(self, steps: int) -> list[Event]:
        """Perform steps; returns the events of the treatment."""
        return [event for _ in range(steps) for event in self.one_step()]

    def one_step(self) -> Iterator[Event]:
        """One step with every stage at which a treatment may act, and occasional evaluations and boundaries."""
        self.step += 1
        inputs, targets = self.case.data(self.step)
        self.seen = {"inputs": inputs, "targets": targets}
        self.last = self.seen.copy() if self.stage == Stage.BATCH else {}
        yield from self.act(Stage.BATCH)
        inputs, targets = self.seen["inputs"], self.seen["targets"]
        self.optimizer.zero_grad()
        self.outputs = self.forward(inputs)
        self.seen = {"outputs": self.outputs, "targets": targets}
        self.last = self.seen.copy() if self.stage == Stage.LOSS else self.last
        yield from self.act(Stage.LOSS)
        shown, self.seen = self.seen["outputs"], {}
        F.cross_entropy(shown.to(statistic_dtype(shown)), targets).backward()
        yield from self.act(Stage.GRADIENT)
        self.note_before()
        self.optimizer.step()
        yield from self.act(Stage.UPDATE)
        self.follow()
        if self.step % BOUNDARY_EVERY == 0:
            yield from self.act(Stage.EVALUATION)
            self.task += 1
            yield from self.act(Stage.BOUNDARY)

    def note_before(self) -> None:
        """Store the weights before the update, for a treatment that compares them."""
        if self.treatment is not None and Reading.UPDATES in self.treatment.reads:
            self.before = {n: p.clone() for n, p in self.parameters().items()}

    def follow(self) -> None:
        """Update a treatment of stage "evaluation" after a completed step."""
        if self.treatment is not None and self.treatment.stage == Stage.EVALUATION and self.treatment.due(self.step):
            self.state = self.treatment.follow(self.view(), self.state, self.knobs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the network and store the activations of its units [N, H]."""
        seen: dict[str, list[Tensor]] = {}

        def keep(layer: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
            def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
                units = output.detach().movedim(self.case.axis, -1)
                seen.setdefault(layer, []).append(units.reshape(-1, units.shape[-1]).clone())

            return hook

        taps = self.case.taps.items()
        handles = [self.model.get_submodule(tap).register_forward_hook(keep(layer)) for layer, tap in taps]
        try:
            outputs = self.model(inputs)
        finally:
            for handle in handles:
                handle.remove()
        self.activations = {layer: torch.cat(parts) for layer, parts in seen.items()}
        return outputs

    def act(self, stage: Stage) -> list[Event]:
        """Plan and apply, if the treatment acts at this stage. Edits of an evaluation are undone."""
        if self.treatment is None or self.treatment.stage != stage:
            return []
        if stage not in _UNTIMED and not self.treatment.due(self.step):
            return []
        edits, self.state = self.treatment.plan(self.view(), self.state, self.knobs)
        if not edits:
            return []
        before = self.view(copied=True)
        undo = self.carry_out(stage, edits)
        if stage == Stage.MODULES:
            self.look()
        event = Event(before, edits, self.view(copied=True))
        undo()
        return [event]

    def carry_out(self, stage: Stage, edits: Sequence[Edit]) -> Callable[[], object]:
        """Apply edits; for an evaluation, returns a function that undoes them."""
        if stage == Stage.BATCH:
            self.seen["inputs"], self.seen["targets"] = extend(edits, self.seen["inputs"], self.seen["targets"])
        elif stage == Stage.LOSS:
            self.seen["outputs"] = mask(edits, self.seen["outputs"])
        else:
            name = self.treatment.name if self.treatment else ""
            applied = apply_edits(edits, self.model, [self.optimizer], component=name)
            if stage == Stage.EVALUATION:
                return applied.undo
        return lambda: None

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of all tensors of the network and the optimizer."""
        found = {f"model/{n}": v.clone() for n, v in self.model.state_dict().items()}
        names = {id(p): n for n, p in self.model.named_parameters()}
        for parameter, state in self.optimizer.state.items():
            found |= {f"{names[id(parameter)]}/{k}": torch.as_tensor(v).clone() for k, v in state.items()}
        return found

    def resumed(self, state: State) -> Bench:
        """Another run that continues from this run's model and optimizer, and from a saved state."""
        other = Bench(self.case, None, self.adam, self.seed)
        other.model, other.optimizer = copy.deepcopy((self.model, self.optimizer))
        other.look()
        other.step, other.task, other.treatment, other.state = self.step, self.task, self.treatment, state
        other.initial = self.initial
        if self.treatment is not None:
            other.knobs = self.treatment.knobs()
        return other


def frozen(view: View) -> View:
    """A view whose tensors are copies."""
    tables = ("parameters", "buffers", "gradients", "before", "initial", "activations")
    copies = {table: {n: t.detach().clone() for n, t in getattr(view, table).items()} for table in tables}
    given = {name: getattr(view, name) for name in ("inputs", "targets", "outputs")}
    return replace(view, **copies, **{n: None if t is None else t.detach().clone() for n, t in given.items()})


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> str:
    """The name of a tensor that differs between two sets; "" if they are equal bit for bit."""
    if first.keys() != second.keys():
        return f"different names: {sorted(first.keys() ^ second.keys())[:3]}"
    return next((n for n in first if not torch.equal(first[n], second[n])), "")
