"""R replicas of a network as one network with stacked parameters, and one training step of all of them."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from homeostat.core.controller import Controller
from homeostat.core.errors import BadInput
from homeostat.core.snapshot import Reading
from homeostat.core.treatment import Stage, Treatment
from homeostat.core.vital import Vital
from homeostat.fleet.controlling import StackedControllers
from homeostat.fleet.edits import StackedTargets
from homeostat.fleet.measuring import StackedVitals
from homeostat.fleet.optimizers import MakeOptimizer, StackedSGD, stacked_optimizers
from homeostat.fleet.random_streams import RandomStreams
from homeostat.fleet.treating import StackedTreatments
from homeostat.fleet.twins import Lifting, lift
from homeostat.fleet.twins.linear import LinearTwin
from homeostat.shell.unit_graph.activation_points import MAX_ROWS, Tap
from homeostat.shell.unit_graph.init_distributions import fresh_distributions, norm_parameters
from homeostat.shell.unit_graph.sandbox import map_tensors
from homeostat.shell.unit_graph.trace import UnitGraph, trace_units
from homeostat.shell.unit_graph.traced_network import TracedNetwork


class Stack:
    """A group of replicas that are computed together. `Fleet` explains the other arguments.

    Args:
        networks: one for each seed.
        streams: their random streams, after the networks were made.

    Attributes:
        model: the network of twins; its parameters are [R, ...] under the names of the solo network.
        step: optimizer steps so far.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        streams: RandomStreams,
        optimizer: MakeOptimizer,
        seeds: Sequence[int],
        knobs: Mapping[str, Any],
        vitals: str | Sequence[str | Vital],
        treatments: Sequence[Treatment],
        every: int,
        controllers: Sequence[Controller],
        clip_norm: float | None,
    ) -> None:
        self.seeds, self.step, self._clip_norm = tuple(seeds), 0, clip_norm
        self._lifting = Lifting(streams)
        self.template: nn.Module = copy.deepcopy(networks[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = lift(networks, self._lifting)
        self.parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.buffers = dict(self.model.named_buffers())
        plain = {name: value for name, value in knobs.items() if "." not in name}
        self.optimizers = stacked_optimizers(optimizer, networks[0], self.parameters, plain)
        ours = {name: value for name, value in knobs.items() if "." in name}
        self.treatments = StackedTreatments(treatments, ours, self.seeds)
        self.vitals = StackedVitals(vitals, every)
        measured = [vital.name for vital in self.vitals.vitals]
        self.controllers = StackedControllers(controllers, measured, self.treatments, self.optimizers, len(self.seeds))
        self._taps: dict[str, Tap] | None = None
        self._reading = bool(self.treatments.applied or self.vitals.vitals)
        self._hooks: dict[str, Any] = {}
        self._linear = {
            id(module.weight): (name, module)
            for name, module in self.model.named_modules()
            if isinstance(module, LinearTwin)
        }
        trained = {n for one in self.optimizers for n in one.parameters}
        self._factorable = len(self.optimizers) == 1 and set(self.parameters) == trained

    # ---- forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs [R, B, ...] for inputs [R, B, ...]."""
        if torch.is_grad_enabled() and self._reading:
            if self._taps is None:
                self._trace(args, kwargs)
            self._listen()
        elif self._hooks:
            self._silence()
        self._lifting.factored = torch.is_grad_enabled() and self._takes_factors()
        return self.model(*args, **kwargs)

    def _takes_factors(self) -> bool:
        """Whether no one but the optimizer needs the gradients of this step, and it takes their factors."""
        step = self.step + 1
        (optimizer, *_) = self.optimizers
        return (
            self._factorable
            and self._clip_norm is None
            and isinstance(optimizer, StackedSGD)
            and optimizer.factors_welcome
            and not self.treatments.reads_gradients(step)
            and not self.vitals.wants_gradients(step)
        )

    def _trace(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find units and where to read them, with the first replica's part of the first batch."""
        some_args, some_kwargs = map_tensors(lambda t: t[0].detach(), (args, kwargs))
        reads = {r for one in self.treatments.applied for r in one.treatment.reads}
        reads |= {r for vital in self.vitals.vitals for r in vital.reads}
        needed = Reading.ACTIVATIONS in reads or any(one.treatment.needs_units for one in self.treatments.applied)
        graph = UnitGraph()
        if needed:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                graph = trace_units(self.template, some_args, some_kwargs)
        self._taps = dict(graph.taps)
        self.vitals.nonlinearity = {layer: tap.nonlinearity for layer, tap in graph.taps.items()}
        if not self.treatments.begun:
            fresh, norms = fresh_distributions(self.template), norm_parameters(self.template)
            traced = TracedNetwork(graph.groups, dict(graph.refused), fresh, norms)
            self.treatments.begin(self._targets({}), traced, self._rate(), self.step)

    def _listen(self) -> None:
        """Capture the activations that this step needs."""
        step, taps = self.step + 1, self._taps or {}
        wanted: set[str] = set()
        if self.treatments.reads(Reading.ACTIVATIONS, step):
            wanted |= {group.layer for group in self.treatments.traced.units}
        if self.vitals.wants_activations(step):
            wanted |= set(taps)
        if wanted == self._hooks.keys():
            return
        self._silence()
        twins = dict(self.model.named_modules())
        self._lifting.wanted = {layer: taps[layer] for layer in wanted if layer in taps}
        for layer, tap in self._lifting.wanted.items():
            place, hook = twins.get(tap.module), _Ear(layer, tap, self._lifting)
            if place is None:
                continue
            if tap.side == "input":
                self._hooks[layer] = place.register_forward_pre_hook(hook, with_kwargs=True)
            else:
                self._hooks[layer] = place.register_forward_hook(hook, with_kwargs=True)

    def _silence(self) -> None:
        for handle in self._hooks.values():
            handle.remove()
        self._hooks, self._lifting.wanted = {}, {}

    def masked(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The outputs as treatments of stage "loss" leave them."""
        if not any(one.treatment.stage == Stage.LOSS for one in self.treatments.applied):
            return outputs
        there = self._targets({})
        there.outputs = outputs
        self.treatments.act(Stage.LOSS, self.step + 1, there, {}, self._rate(), targets)
        return there.outputs

    # ---- step

    def learn(self, losses: Tensor) -> None:
        """Treatments, update and measurements after the backward pass.

        Args:
            losses: [R], detached.
        """
        step = self.step + 1
        gradients: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                gradients[name], parameter.grad = parameter.grad, None
        if self._clip_norm is not None:
            clip_norms_(list(gradients.values()), self._clip_norm)
        activations = self._taken()
        targets = self._targets(gradients)
        if not self.treatments.begun and self.treatments.applied:
            raise BadInput("fleet: call the fleet itself before the first step, so that its units can be traced")
        self.vitals.before_update(step, self.parameters)
        self.treatments.before_update(targets, step)
        self.treatments.act(Stage.GRADIENT, step, targets, {}, self._rate())
        self._update(gradients)
        self.treatments.act(Stage.UPDATE, step, targets, activations, self._rate())
        self.treatments.follow(step, targets, activations, self._rate())
        self.step = step
        self.vitals.after_step(step, activations, self.parameters, gradients, losses)
        self.controllers.turn(step, self.vitals.series)

    def _update(self, gradients: Mapping[str, Tensor]) -> None:
        for optimizer in self.optimizers:
            optimizer.step(gradients)
        for path, twin in self._linear.values():
            if not twin.factors:
                continue
            (optimizer,) = self.optimizers
            assert isinstance(optimizer, StackedSGD)
            prefix = f"{path}." if path else ""
            bias = None if twin.bias is None else f"{prefix}bias"
            for number, (inputs, above) in enumerate(twin.factors):
                optimizer.step_factored(f"{prefix}weight", bias, inputs, above, first=not number)
            twin.factors.clear()

    def _taken(self) -> dict[str, Tensor]:
        """Layer -> activations [R, N, H] of this step's forward passes."""
        captured, self._lifting.captured = self._lifting.captured, {}
        return {k: (v[0] if len(v) == 1 else torch.cat(v, 1))[:, :MAX_ROWS] for k, v in captured.items()}

    def _targets(self, gradients: dict[str, Tensor]) -> StackedTargets:
        return StackedTargets(self.parameters, self.buffers, self.optimizers, gradients)

    def _rate(self) -> float:
        """The learning rate of the first group; NaN if it differs between replicas."""
        rate = self.optimizers[0].settings["lr"]
        return float("nan") if isinstance(rate, Tensor) else float(rate)

    # ---- outside of steps

    def turn(self, name: str, value: Any) -> None:
        """Set a setting of the optimizers or a knob "treatment.knob".

        Raises:
            BadInput: there is none of that name.
        """
        if "." in name:
            self.treatments.set_knob(name, value)
            return
        for optimizer in self.optimizers:
            if name not in optimizer.settings:
                raise BadInput(f"fleet: there is no knob {name!r}")
            optimizer.settings[name] = value

    def boundary(self) -> None:
        """A new task begins."""
        self.treatments.task += 1
        self.treatments.act(Stage.BOUNDARY, self.step, self._targets({}), {}, self._rate())

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Evaluation mode, without gradients, with treatments of stage "evaluation"; all is undone afterwards."""
        training = self.model.training
        undo = self.treatments.act(Stage.EVALUATION, self.step, self._targets({}), {}, self._rate())
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(training)
            for restore in undo:
                restore()

    def replica(self, index: int) -> nn.Module:
        """An ordinary module with the present parameters and buffers of one replica."""
        model = copy.deepcopy(self.template)
        with torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                tensor.copy_(self.tensors()[name][index])
        return model.train(self.model.training)

    def tensors(self) -> dict[str, Tensor]:
        """Every stacked parameter and buffer by name, detached."""
        named = (*self.model.named_parameters(), *self.model.named_buffers())
        return {name: tensor.detach() for name, tensor in named}

    def routes(self) -> dict[str, str]:
        """Path of every module of a type without a twin -> the route that it takes, with the reason."""
        return dict(self._lifting.routes)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to continue bit for bit."""
        return {
            "seeds": self.seeds,
            "step": self.step,
            "tensors": {name: tensor.clone() for name, tensor in self.tensors().items()},
            "optimizers": [copy.deepcopy(one.state_dict()) for one in self.optimizers],
            "streams": self._lifting.streams.state_dict(),
            "treatments": self.treatments.state_dict(),
            "vitals": self.vitals.state_dict(),
            "controllers": self.controllers.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        if tuple(state["seeds"]) != self.seeds:
            raise BadInput(f"fleet: saved with seeds {list(state['seeds'])}, loaded with {list(self.seeds)}")
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(state["tensors"][name])
        for one, saved in zip(self.optimizers, state["optimizers"], strict=True):
            one.load_state_dict(saved)
        self._lifting.streams.load_state_dict(state["streams"])
        self.treatments.load_state_dict(state["treatments"])
        self.vitals.load_state_dict(state["vitals"])
        self.controllers.load_state_dict(state["controllers"])
        self.step = state["step"]


def clip_norms_(gradients: Sequence[Tensor], largest: float) -> None:
    """Scale the gradients [R, ...] of each replica, in place, so that their norm is at most `largest`, as
    `torch.nn.utils.clip_grad_norm_` does."""
    norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients])
    scale = (largest / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.reshape(-1, *(1,) * (gradient.ndim - 1)))


class _Ear:
    """A forward hook that keeps the units at a tap of a twin, [R, N, H]."""

    def __init__(self, layer: str, tap: Tap, lifting: Lifting) -> None:
        self._layer, self._tap, self._lifting = layer, tap, lifting

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
        tensor = self._tap.read(args, kwargs, output)
        if tensor is None or not torch.is_grad_enabled():
            return
        rows = tensor.detach().movedim(self._tap.axis, -1)
        rows = rows.reshape(len(rows), -1, rows.shape[-1])
        if (index := self._tap.index) is not None:
            rows = rows[..., index.to(rows.device)].movedim(-1, 2).reshape(len(rows), -1, index.shape[0])
        self._lifting.captured.setdefault(self._layer, []).append(rows.clone())
