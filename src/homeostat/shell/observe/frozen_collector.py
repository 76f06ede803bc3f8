"""Finds layers that do not change amid layers that are trained: frozen ones, and those behind a cut of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from homeostat.core.snapshot import layer_of
from homeostat.diagnosis.facts import FrozenFacts
from homeostat.shell.hooks.frozen_layers import frozen_between
from homeostat.shell.hooks.module_hooks import MODULE_HOOKS
from homeostat.shell.hooks.module_tree import named_modules_in, named_parameters_in
from homeostat.shell.hooks.parameter_changes import ParameterChanges, leaves
from homeostat.shell.hooks.torch_internals import (
    in_backward,
    is_plain,
    own_parameters,
    recorded_elsewhere,
    tree_map,
    unseen,
)
from homeostat.shell.network import Network
from homeostat.shell.observe.activation_hooks import Guarding

READINGS = 8
"""Losses whose graph is read for frozen layers."""
LOOKS = 4
"""Steps whose calls of the layers are looked at, for each network."""
MOST_LAYERS = 500
"""Networks with more layers are not looked at."""
MOST_CALLS = 4000
"""Largest number of calls of layers in a step that are kept."""


class FrozenCollector:
    """Reads the graphs of the first few losses, and the calls of the layers while parameters in an optimizer have no
    gradient.

    Args:
        networks: those that are followed, a live list.
        guard: wraps what is done inside the user's passes.
    """

    def __init__(self, networks: Sequence[Network], guard: Guarding) -> None:
        self._networks, self._guard = networks, guard
        self._readings = 0
        self._inside, self._changes = dict[str, int](), ParameterChanges()
        self._matrices, self._share, self._layers = set[str](), 0.0, 0
        self._calls = dict[Network, LayerCalls]()
        self._looks = dict[Network, int]()
        self._cut: GraphCut | None = None

    def see(self, loss: Tensor) -> None:
        """Read the graph of a loss before its backward pass."""
        if self._readings < READINGS:
            self._see_frozen(loss)
        for network in self._networks:
            calls = self._calls.pop(network, None)
            if calls is not None:
                calls.end()
                found = cut_in(network, calls, {id(leaf) for leaf in leaves(loss)})
                self._cut = self._cut or found
            elif self._cut is None and network.step and network.no_gradient and self._looks.get(network, 0) < LOOKS:
                self._looks[network] = self._looks.get(network, 0) + 1
                self._calls[network] = LayerCalls(network, self._guard)

    def facts(self) -> FrozenFacts:
        """What has been seen so far."""
        cut = self._cut
        return FrozenFacts(
            readings=self._readings,
            inside=dict(self._inside),
            matrices=tuple(sorted(self._matrices)),
            share=self._share,
            layers=self._layers,
            cut=() if cut is None else cut.layers,
            cut_before="" if cut is None else cut.before,
            cut_how="" if cut is None else cut.how,
            cut_meant=cut is not None and cut.meant,
        )

    def end(self) -> None:
        """Remove every hook."""
        for calls in self._calls.values():
            calls.end()
        self._calls.clear()

    def _see_frozen(self, loss: Tensor) -> None:
        """Frozen layers on the way of gradients. A layer that is trained at any other reading is none."""
        frozen, sizes, total = dict[int, str](), dict[str, int](), 0
        matrices = set[str]()
        for network in self._networks:
            parameters = dict(named_parameters_in(network.model))
            total += sum(p.numel() for p in parameters.values())
            training = {layer_of(name) for name, p in parameters.items() if p.requires_grad}
            for name, p in parameters.items():
                if layer_of(name) in training or not is_plain(p) or not p.numel() or self._changes.changed(p):
                    continue
                layer = network.named(layer_of(name))
                frozen[p.data_ptr()] = layer
                sizes[layer] = sizes.get(layer, 0) + p.numel()
                matrices |= {layer} if p.ndim > 1 else set()
        self._readings += 1
        held = {id(p) for n in self._networks for p in n.trained().values()}
        found = frozen_between(loss, held, frozen) if frozen else set[str]()
        self._inside = {layer: size for layer, size in self._inside.items() if layer in sizes}
        self._inside |= {layer: sizes[layer] for layer in sorted(found)}
        self._matrices = matrices & set(self._inside)
        self._share, self._layers = sum(sizes.values()) / max(total, 1), len(matrices)


@dataclass(frozen=True)
class CallOfLayer:
    """A call of a layer.

    Args:
        layer: its name.
        given, made: storages of its floating-point inputs and outputs.
        reached: whether an input has a gradient.
        graph: whether an output has a gradient.
        training: mode of the layer.
    """

    layer: str
    given: frozenset[int]
    made: frozenset[int]
    reached: bool
    graph: bool
    training: bool


class LayerCalls:
    """The calls of a network's layers until `end`, in order. Storages are named by weak references, which keep their
    numbers from being used again."""

    def __init__(self, network: Network, guard: Guarding) -> None:
        self.calls, self.root = list[CallOfLayer](), frozenset[int]()
        self._refs, self._guard = list[StorageWeakRef](), guard
        named = {
            name: m
            for name, m in named_modules_in(network.model)
            if any(p is not None for p in own_parameters(m).values())
        }
        self._handles = []
        if len(named) <= MOST_LAYERS:
            self._handles = [MODULE_HOOKS.place(m, "output", _Listener(self, name)) for name, m in named.items()]
            if "" not in named:
                self._handles.append(MODULE_HOOKS.place(network.model, "input", self._begin))

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not recorded_elsewhere():
            with self._guard("looking for frozen layers"), unseen():
                self.root |= self._storages((args, kwargs), of_numbers=False)[0]

    def hear(self, layer: str, module: nn.Module, given: Any, made: Any) -> None:
        """Note a call of a layer."""
        if recorded_elsewhere() or in_backward() or len(self.calls) >= MOST_CALLS:
            return
        with self._guard("looking for frozen layers"), unseen():
            (inputs, reached), (outputs, graph) = self._storages(given), self._storages(made)
            self.calls.append(CallOfLayer(layer, inputs, outputs, reached, graph, module.training))

    def _storages(self, values: Any, of_numbers: bool = True) -> tuple[frozenset[int], bool]:
        """Storages of the tensors (or floating-point tensors) in it, and whether one has a gradient."""
        tensors = list[Tensor]()
        tree_map(lambda v: tensors.append(v) if isinstance(v, Tensor) else None, values)
        tensors = [t for t in tensors if t.is_floating_point() or not of_numbers]
        refs = [StorageWeakRef(t.untyped_storage()) for t in tensors if is_plain(t)]
        self._refs += refs
        return frozenset(ref.cdata for ref in refs), any(t.requires_grad for t in tensors)

    def end(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


class _Listener:
    """A forward hook of one layer."""

    def __init__(self, calls: LayerCalls, layer: str) -> None:
        self._calls, self._layer = calls, layer

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._calls.hear(self._layer, module, (args, kwargs), output)


@dataclass(frozen=True)
class GraphCut:
    """Where the gradient ends.

    Args:
        layers: those that computed before and get no gradient.
        before: the trained layer whose input has none.
        how: "no_grad" if they ran without a graph, else "detach".
        meant: they are in evaluation mode, and the layer behind them is not.
    """

    layers: tuple[str, ...]
    before: str
    how: str
    meant: bool


def cut_in(network: Network, heard: LayerCalls, used: set[int]) -> GraphCut | None:
    """The cut between layers without a gradient and a trained one whose input has none; None if there is none.

    The input must be what an earlier layer has made, or, inside one call of the network, something else than the
    network's own inputs.

    Args:
        used: ids of the parameters that the loss depends on.
    """
    owned = {
        name: [id(p) for p in own_parameters(m).values() if p is not None]
        for name, m in named_modules_in(network.model)
    }
    held = {id(p) for p in network.trained().values()}
    parameters = dict(named_parameters_in(network.model))
    without = {id(parameters[name]) for name in network.no_gradient if name in parameters} - used
    before, made = list[CallOfLayer](), set[int]()
    for call in heard.calls:
        ids = owned.get(call.layer, [])
        trained = any(i in used and i in held for i in ids)
        inside = bool(heard.root) and bool(call.given) and not call.given & heard.root
        if trained and before and not call.reached and (call.given & made or inside):
            layers = tuple(dict.fromkeys(network.named(c.layer) for c in before))
            how = "detach" if any(c.graph for c in before) else "no_grad"
            meant = call.training and not any(c.training for c in before)
            return GraphCut(layers, network.named(call.layer), how, meant)
        if ids and any(i in held for i in ids) and all(i in without for i in ids if i in held):
            before.append(call)
        made |= call.made
    return None
