"""Facts about the losses of a run over time, from their graphs at a few steps, before the backward pass."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import cache
from types import CodeType, FunctionType

from torch import Tensor, nn

from homeostat.core.snapshot import layer_of
from homeostat.diagnosis.loss_facts import (
    BroadcastFacts,
    DirectionFacts,
    EvalModeFacts,
    InputFacts,
    LeakFacts,
    LossFacts,
    SoftmaxFacts,
    WeightingFacts,
)
from homeostat.shell.hooks.layer_order import layers_after
from homeostat.shell.hooks.loss_graph import NEAR, LossReading, criteria, read_loss
from homeostat.shell.hooks.module_tree import modules_in, named_modules_in, named_parameters_in, parameters_in
from homeostat.shell.hooks.torch_internals import BATCH_NORM, DROPOUT, version_of
from homeostat.shell.network import Network
from homeostat.shell.observe.activation_hooks import Guarding
from homeostat.shell.observe.clearing_collector import ClearingCollector
from homeostat.shell.observe.evaluation_collector import EvaluationCollector
from homeostat.shell.observe.frozen_collector import FrozenCollector
from homeostat.shell.observe.label_collector import LabelCollector
from homeostat.shell.observe.layer_collector import LayerCollector, middle
from homeostat.shell.observe.loss_schedule import Kind, LossSchedule
from homeostat.shell.observe.observer import Row
from homeostat.shell.observe.output_collector import OutputCollector
from homeostat.shell.observe.policy_collector import PolicyCollector
from homeostat.shell.observe.scale_collector import ScaleCollector

ORDERS = 4
"""Number of readings of the order of the layers, because several losses may alternate."""
KEPT = 160
"""Number of stored values of the loss of a constant, and of the spread of normalised vectors."""


class LossCollector:
    """Counts the results of `read_loss` for a run.

    A reading walks the graph once and transfers a few numbers from the device. Between readings there is no work.

    Args:
        guard: wraps what is done inside the user's passes.
        steps: returns the completed steps of the run.

    Attributes:
        readers: called with (step, loss) at every reading, too.
        policies: what the losses show of policies and values.
        frozen: layers that stay as they are amid trained ones.
        scale: the loss scale.
        evaluations: losses of the script's own evaluations.
    """

    def __init__(self, guard: Guarding, steps: Callable[[], int]) -> None:
        self._networks = list[Network]()
        self.policies = PolicyCollector(self._networks, guard)
        self.frozen = FrozenCollector(self._networks, guard)
        self.scale = ScaleCollector()
        self.evaluations = EvaluationCollector(self._networks, guard, steps)
        self._schedule = LossSchedule(self._networks)
        self.readers: list[Callable[[int, Tensor], None]] = []
        self._layers, self._labels, self._outputs = LayerCollector(), LabelCollector(), OutputCollector()
        self._readings = dict[Kind, int]()
        self._softmax, self._broadcast, self._leak = SoftmaxFacts(), BroadcastFacts(), LeakFacts()
        self._clearing = ClearingCollector(self._networks)
        self._eval_mode, self._inputs = EvalModeFacts(), InputFacts()
        self._weights: list[bool] = []
        self._spreads: deque[float] = deque(maxlen=KEPT)
        self._variances: deque[float] = deque(maxlen=KEPT)
        self._versions: dict[str, tuple[int, int]] = {}
        self._strangers: dict[int, tuple[str, int, int]] = {}
        self._orders, self._after = 0, dict[str, tuple[str, ...]]()

    @property
    def next(self) -> int:
        """The step whose loss is read next, if there is one network."""
        return self._schedule.next

    def follow(self, network: Network) -> None:
        """Losses of this network are read from now on."""
        self._networks.append(network)
        self.policies.targets.start(network)

    def due(self, step: int, loss: Tensor) -> bool:
        """Whether this loss is to be read, before the backward pass of a step (first: 1). Called for every loss."""
        return self._schedule.due(step, loss) or self.policies.due(step) or self._clearing.follows(step)

    def read(self, step: int, loss: Tensor) -> list[Row]:
        """Read what is due in the graph of a loss before its backward pass; returns rows for the record.

        Only the first backward pass of a step is counted; policies are also read in others.
        """
        if self._schedule.take(step):
            self.see(step, loss)
        elif self._clearing.follows(step):
            self._clearing.later_pass()
        return self.policies.see(step, loss) if self.policies.due(step) else []

    def see(self, step: int, loss: Tensor) -> None:
        """Count what the graph of a loss shows."""
        self._clearing.first_pass(step)
        for read in self.readers:
            read(step, loss)
        reading = read_loss(loss)
        if reading is None:
            return
        self._readings[self._schedule.kind] = self._readings.get(self._schedule.kind, 0) + 1
        self._softmax = SoftmaxFacts(
            duplicated=self._softmax.duplicated + reading.duplicated_softmax,
            missing=self._softmax.missing + reading.unnormalised,
            wrong_dim=self._softmax.wrong_dim + bool(reading.softmax_dim),
            what=reading.softmax_dim or self._softmax.what,
        )
        if reading.leak:
            self._leak = LeakFacts(self._leak.readings + 1, reading.leak)
        if reading.broadcast is not None:
            outputs, shape = reading.broadcast
            shapes = f"outputs {list(outputs)} give a loss over {list(shape)}"
            self._broadcast = BroadcastFacts(self._broadcast.readings + 1, shapes)
        self._layers.see(step, reading)
        self._outputs.see(criteria(loss, NEAR))
        self._see_modes(step)
        self._see_order(loss)
        self._see_parameters(reading)
        self.frozen.see(loss)
        self._labels.see(step, reading)
        self._see_inputs(reading)
        if reading.spread is not None and reading.labels is None:
            self._spreads.append(reading.spread)
        if reading.variance is not None:
            self._variances.append(reading.variance)
        if reading.zero_weight is not None:
            self._weights.append(reading.zero_weight)

    def end(self) -> None:
        """Remove every hook."""
        self.policies.targets.end()
        self.frozen.end()

    def facts(self) -> LossFacts:
        """The facts so far."""
        return LossFacts(
            readings=max(self._readings.values(), default=0),
            softmax=self._softmax,
            broadcast=self._broadcast,
            clearing=self._clearing.facts(),
            leak=self._leak,
            eval_mode=self._eval_mode,
            labels=self._labels.facts(),
            weighting=self._weighting(),
            inputs=self._inputs,
            directions=DirectionFacts(len(self._spreads), middle(list(self._spreads)[-5:])),
            attention=self._layers.attention(),
            batch_norm=self._layers.batch_norm(),
            outputs=self._outputs.outputs(),
            regression=self._outputs.regression(variance=middle(self._variances)),
            target_order=self._outputs.order(),
            generative=self._layers.generative(),
            unheld=tuple(name for name, (before, after) in self._versions.items() if before == after),
            strangers=tuple(name for name, before, after in self._strangers.values() if before == after),
            after=self._after,
        )

    def _weighting(self) -> WeightingFacts:
        early = self._weights[: max(len(self._weights) // 4, 1)]
        return WeightingFacts(len(self._weights), sum(self._weights), sum(early) / len(early) if early else math.nan)

    def _see_modes(self, step: int) -> None:
        evaluating = False
        for network in self._networks:
            model = network.model
            if not model.training and any(map(depends_on_mode, modules_in(model))):
                evaluating |= not any(m.training for m in modules_in(model))
        since = self._eval_mode.since if self._eval_mode.readings or not evaluating else step
        self._eval_mode = EvalModeFacts(self._eval_mode.readings + 1 if evaluating else 0, since)

    def _see_order(self, loss: Tensor) -> None:
        layers = {id(p): n.named(layer_of(name)) for n in self._networks for name, p in n.trained().items()}
        if not layers or self._orders >= ORDERS:
            return
        self._orders += 1
        for layer, others in layers_after(loss, layers).items():
            self._after[layer] = tuple(sorted(others.union(self._after.get(layer, ()))))

    def _see_parameters(self, reading: LossReading) -> None:
        """Parameters of the graph that are in plain lists and untrained, with their changes."""
        used = {id(p): p for p in reading.parameters}
        held = {
            id(p) for n in self._networks for o in n.optimizers for group in o.param_groups for p in group["params"]
        }
        names = {n.named(name): key for n in self._networks for key, name in hidden_parameters(n.model).items()}
        found = {name: used[key] for name, key in names.items() if key in used and key not in held}
        self._versions = {
            name: (self._versions.get(name, (version_of(p), 0))[0], version_of(p)) for name, p in found.items()
        }
        if any(n.held_twice() for n in self._networks):
            inside = {id(p) for n in self._networks for p in parameters_in(n.model)}
            for key in used.keys() - held - inside - {id(p) for p in found.values()}:
                version = version_of(used[key])
                shape = f"a parameter of shape {list(used[key].shape)}"
                self._strangers[key] = (shape, self._strangers.get(key, (shape, version))[1], version)

    def _see_inputs(self, reading: LossReading) -> None:
        if reading.inputs is None or reading.inputs.ndim < 2 or len(reading.inputs) < 2:
            return
        rows = reading.inputs.float().flatten(1)
        size, deviation, mean = rows.square().mean().sqrt(), rows.std(0), rows.mean(0).abs()
        offset = (mean / deviation.clamp_min(1e-12))[deviation > 1e-6]
        self._inputs = InputFacts(float(size), float(offset.median()) if offset.numel() else 0.0)


def depends_on_mode(module: nn.Module) -> bool:
    """Whether a module computes otherwise in evaluation mode: it has dropout or batch norm, or its own code asks."""
    if isinstance(module, (BATCH_NORM, DROPOUT)):
        return True
    if isinstance(module, nn.RNNBase):
        return module.dropout > 0 and module.num_layers > 1
    if isinstance(module, nn.MultiheadAttention):
        return module.dropout > 0
    own = [kind for kind in type(module).__mro__ if not kind.__module__.startswith("torch.")]
    return any("training" in code.co_names for kind in own for code in _code_of(kind))


@cache
def _code_of(kind: type) -> list[CodeType]:
    """The code of the methods that a class defines."""
    functions = (value for name, value in vars(kind).items() if name not in ("train", "eval"))
    return [function.__code__ for function in functions if isinstance(function, FunctionType)]


def hidden_parameters(model: nn.Module) -> dict[int, str]:
    """id -> name of the parameters that modules keep in plain lists, tuples or dictionaries, where `parameters()` does
    not find them."""
    known, found = {id(p) for p in parameters_in(model)}, {}
    for prefix, module in named_modules_in(model):
        for attribute, value in vars(module).items():
            if attribute.startswith("_") or not isinstance(value, (list, tuple, dict)):
                continue
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                name = ".".join(filter(None, [prefix, attribute, str(key)]))
                inside = named_parameters_in(item) if isinstance(item, nn.Module) else [("", item)]
                for inner, parameter in inside:
                    if isinstance(parameter, nn.Parameter) and id(parameter) not in known:
                        found[id(parameter)] = f"{name}.{inner}" if inner else name
    return found
