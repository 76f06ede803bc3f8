"""Networks that give the targets of another one: copies of its architecture that no optimizer trains."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from homeostat.diagnosis.facts import TargetFacts
from homeostat.shell.hooks.module_hooks import MODULE_HOOKS
from homeostat.shell.hooks.module_tree import modules_in, named_parameters_in, parameters_in
from homeostat.shell.hooks.torch_internals import (
    children_of,
    is_plain,
    own_parameters,
    recorded_elsewhere,
    unseen,
)
from homeostat.shell.hooks.value_graph import Regression
from homeostat.shell.hooks.wrappers import live
from homeostat.shell.network import Network
from homeostat.shell.observe.activation_hooks import Guarding

SAMPLE = 64
"""Values of a parameter that are compared."""
HEARD = 4
"""Inputs of a network that are kept, until the next reading."""
PATIENCE = 24
"""Readings after which a copy that gave no targets is forgotten."""


class TargetNetworks:
    """Finds copies of the followed networks, and whether they give targets and change.

    A copy gives the targets of a step if it computes, without a gradient, on another batch of the shape of the one
    that the network is trained on, and if outputs of the network are compared with numbers. A teacher, or a reference
    model, computes on the same batch as the network.

    Live modules are searched once for each network, when outputs of it are first seen to be compared with numbers.
    While it is not known whether a copy gives targets, a forward hook is on the first layer of both.

    Args:
        networks: those that are followed, a live list.
        guard: wraps what is done inside the user's passes.
    """

    def __init__(self, networks: Sequence[Network], guard: Guarding) -> None:
        self._networks = networks
        self._guard = guard
        self._starts = dict[Network, dict[str, Tensor]]()
        self._pairs = dict[Network, list[Pair]]()

    def start(self, network: Network) -> None:
        """Remember the values that a network starts from."""
        self._starts[network] = _samples(network.model)

    def see(self, owner: Network, found: Sequence[Regression], nodes: Sequence[Any]) -> None:
        """Outputs of a network are compared with numbers in a loss, which has these nodes."""
        if owner not in self._pairs:
            self._pairs[owner] = []  # also if the search fails, which takes long in a large process
            self._pairs[owner] = self._find(owner)
            return
        used = {id(getattr(node, "variable", None)) for node in nodes}
        for pair in self._pairs[owner]:
            pair.look(found, used)

    def facts(self) -> tuple[TargetFacts, ...]:
        """What is known of the copies that gave targets."""
        return tuple(
            pair.facts(network)
            for network in self._networks
            for pair in self._pairs.get(network, ())
            if pair.gave and not pair.gone
        )

    def end(self) -> None:
        """Remove every hook."""
        for pairs in self._pairs.values():
            for pair in pairs:
                pair.forget()

    def _find(self, network: Network) -> list[Pair]:
        if network.compiled:  # hooks inside are silent
            return []
        held = {id(p) for n in self._networks for o in n.optimizers for g in o.param_groups for p in g["params"]}
        inside = [
            ("", network.model),
            *((n, m) for n, m in children_of(network.model).items() if m is not None and children_of(m)),
        ]
        online = {key: (name, m) for name, m in inside if (key := _key(m)) and _holds(m, held)}
        own = {id(m) for _, m in online.values()}
        starts, pairs = self._starts.get(network, {}), list[Pair]()
        kinds = {type(m) for _, m in online.values()}
        for module in live(*kinds, subclasses=False) if kinds else ():
            if id(module) in own:
                continue
            match = online.get(_key(module))
            if match is None or any(id(p) in held for p in parameters_in(module)):
                continue
            name, trained = match
            before = {key: starts.get(f"{name}.{key}" if name else key) for key, _ in named_parameters_in(trained)}
            pairs.append(Pair(name, trained, module, before, network.step, self._guard))
        return pairs


class Pair:
    """A trained module and a copy of its architecture.

    Attributes:
        gave: readings at which the copy gave the targets.
        gone: the copy no longer lives, or has nothing to do with the targets.
    """

    def __init__(
        self,
        name: str,
        online: nn.Module,
        copy: nn.Module,
        before: Mapping[str, Tensor | None],
        step: int,
        guard: Guarding,
    ) -> None:
        self._name, self._since = name, step
        self._copy = weakref.ref(copy)
        self._ids = {id(p) for p in parameters_in(online)}
        self._then = _samples(copy)
        self._equal = all(
            (value := before.get(key)) is not None and torch.equal(value, now) for key, now in self._then.items()
        )
        self.gave = self._looks = self._chosen = 0
        self.gone = self._changed = False
        self._heard, self._handles = (deque[Tensor](maxlen=HEARD), deque[Tensor](maxlen=HEARD)), list[Any]()
        for module, inputs, always in zip((online, copy), self._heard, (False, True), strict=True):
            if (layer := _first_layer(module)) is not None:
                self._handles.append(MODULE_HOOKS.place(layer, "input", InputHook(inputs, always, guard)))

    def look(self, found: Sequence[Regression], used: set[int]) -> None:
        """Whether the copy gave the targets of this loss, and whether it has changed.

        Args:
            found: the comparisons in it.
            used: ids of the parameters that it depends on.
        """
        copy = self._copy()
        if copy is None:
            self.gone = True
        elif self._handles:
            self._listen(copy, found, used)
        if self.gone:
            self.forget()

    def _listen(self, copy: nn.Module, found: Sequence[Regression], used: set[int]) -> None:
        trained, computed = ([*inputs] for inputs in self._heard)
        for inputs in self._heard:
            inputs.clear()
        self._looks += 1
        theirs = [one for one in found if id(one.leaf) in self._ids]
        apart = not any(id(p) in used for p in parameters_in(copy))
        if theirs and apart and _other_batch(trained, computed):
            self.gave += 1
            self._chosen += any(one.chosen for one in theirs)
        if self._looks >= PATIENCE or (self.gave and self._differs(copy)):
            self.forget()
            self.gone = self.gave < self._looks / 2

    def _differs(self, copy: nn.Module) -> bool:
        now = _samples(copy)
        self._changed = self._changed or any(not torch.equal(now[key], then) for key, then in self._then.items())
        return self._changed

    def facts(self, network: Network) -> TargetFacts:
        """Of the copy, as it is now."""
        copy = self._copy()
        if copy is not None:
            self._differs(copy)
        return TargetFacts(
            of=network.named(self._name) if self._name else network.label,
            steps=network.step - self._since,
            readings=self.gave,
            changed=self._changed,
            copied=self._equal,
            chosen=self._chosen,
        )

    def forget(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for inputs in self._heard:
            inputs.clear()


class InputHook:
    """A hook that stores the last few inputs of a layer; with `always` also those of passes without gradients."""

    def __init__(self, inputs: deque[Tensor], always: bool, guard: Guarding) -> None:
        self._inputs, self._always, self._guard = inputs, always, guard

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if recorded_elsewhere() or not (self._always or torch.is_grad_enabled()):
            return
        with self._guard("looking for target networks"), unseen():
            if args and type(args[0]) is Tensor and is_plain(args[0]):
                self._inputs.append(args[0].detach())


def _other_batch(trained: Sequence[Tensor], computed: Sequence[Tensor]) -> bool:
    """Whether the copy computed on a batch like those that are trained on, and on none of these themselves."""
    if any(a.shape == b.shape and torch.equal(a, b) for a in trained for b in computed):
        return False
    return any(_alike(a, b) for a in trained for b in computed)


def _alike(trained: Tensor, computed: Tensor) -> bool:
    if trained.ndim < 2 or trained.shape[1:] != computed.shape[1:]:
        return False
    return len(trained) > 1 and 2 * len(computed) >= len(trained)


def _key(module: nn.Module) -> tuple[Any, ...]:
    """Class, and names and shapes of the parameters; () without any, or where a lazy module has no shapes yet."""
    parameters = list(named_parameters_in(module))
    if any(isinstance(p, UninitializedParameter) for _, p in parameters):
        return ()
    shapes = tuple((name, tuple(p.shape)) for name, p in parameters)
    return (type(module), shapes) if shapes else ()


def _holds(module: nn.Module, held: set[int]) -> bool:
    return any(id(p) in held for p in parameters_in(module))


def _first_layer(module: nn.Module) -> nn.Module | None:
    return next((m for m in modules_in(module) if any(p is not None for p in own_parameters(m).values())), None)


def _samples(module: nn.Module) -> dict[str, Tensor]:
    """The first values of every parameter."""
    return {n: p.detach().reshape(-1)[:SAMPLE].clone() for n, p in named_parameters_in(module) if is_plain(p)}
