"""Policies and values in the losses of a run: read from their graphs at a few steps, before the backward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from torch import Tensor

from homeostat.core.snapshot import layer_of
from homeostat.core.vital import NETWORK
from homeostat.diagnosis.facts import PolicyFacts
from homeostat.diagnosis.loss_series import DIVERGENCE, ENTROPY, FIT, PREDICTIONS, RETURNS, SCALE, TARGETS
from homeostat.shell.hooks.graph_values import MOST_NODES, below, walk
from homeostat.shell.hooks.module_tree import parameters_in
from homeostat.shell.hooks.policy_graph import PolicyReading, read_policy
from homeostat.shell.hooks.value_graph import Regression, first_parameter, regressions
from homeostat.shell.network import Network
from homeostat.shell.observe.activation_hooks import Guarding
from homeostat.shell.observe.cadence import next_loss_reading
from homeostat.shell.observe.observer import Row
from homeostat.shell.observe.target_networks import TargetNetworks

NEAR = 40
"""Operations from the loss within which a policy and a regression are searched."""
PASSES = 4
"""Backward passes of one step that are read: several losses, or several micro-batches."""
MOST_COMPARED = 8
"""Comparisons of outputs with numbers in one loss that are looked at."""
ALIKE = 1e-9
"""Variance over mean square below which targets are one number, up to rounding."""
ORDERS = 8
"""Losses of which it is found out which layers lead to them."""


class PolicyCollector:
    """Reads policies, predictions and targets of one run.

    Args:
        networks: those that are followed, a live list.
        guard: wraps what is done inside the user's passes.
    """

    def __init__(self, networks: Sequence[Network], guard: Guarding) -> None:
        self._networks = networks
        self.targets = TargetNetworks(networks, guard)
        self._next, self._at, self._passes = 1, 0, 0
        self._read, self._with_policy, self._chosen = 0, 0, 0
        self._layers, self._acting = set[str](), set[str]()
        self._given = set[tuple[str, str]]()

    def due(self, step: int) -> bool:
        """Whether a loss of this step (first: 1) is to be read."""
        return step >= self._next or (step == self._at and self._passes < PASSES)

    def see(self, step: int, loss: Tensor) -> list[Row]:
        """Read the graph of a loss that is about to be differentiated; returns what is to be recorded."""
        first = step != self._at
        self._passes = 1 if first else self._passes + 1
        self._at, self._next = step, next_loss_reading(step)
        self._given = set() if first else self._given
        nodes = [node for node, _ in takewhile(lambda found: found[1] < NEAR, walk(loss.grad_fn))]
        policy, compared = read_policy(nodes), regressions(nodes)
        self._read += first
        self._with_policy += policy is not None
        self._chosen += first and any(one.indexed for one in compared)
        if policy is not None or compared:
            self._see_layers(loss, policy)
        rows = [] if policy is None else self._policy_rows(step, policy)
        for owner, theirs in self._by_owner(compared).items():
            rows += _value_rows(step, owner, theirs[0])
            self.targets.see(owner, theirs, nodes)
        new = [row for row in rows if row[1:3] not in self._given]
        self._given |= {row[1:3] for row in new}
        return new

    def facts(self) -> PolicyFacts:
        """What has been seen so far."""
        return PolicyFacts(
            readings=self._read,
            policies=self._with_policy,
            baselines=tuple(sorted(self._layers - self._acting)) if self._acting else (),
            targets=self.targets.facts(),
            chosen=self._chosen,
        )

    def _by_owner(self, found: Sequence[Regression]) -> dict[Network, list[Regression]]:
        """The networks whose outputs are compared, each with its comparisons."""
        owners = dict[Network, list[Regression]]()
        for regression in found[:MOST_COMPARED]:
            if (owner := self._owner(regression.leaf)) is not None:
                owners.setdefault(owner, []).append(regression)
        return owners

    def _policy_rows(self, step: int, policy: PolicyReading) -> list[Row]:
        owner = self._owner(first_parameter(policy.log_probabilities[0]))
        layer = NETWORK if owner is None else owner.named(NETWORK)
        found = {ENTROPY: policy.entropy, SCALE: policy.scale, DIVERGENCE: policy.kl}
        return [(step, vital, layer, value) for vital, value in found.items() if not math.isnan(value)]

    def _owner(self, parameter: Any) -> Network | None:
        held = (n for n in self._networks if any(p is parameter for p in parameters_in(n.model)))
        return None if parameter is None else next(held, None)

    def _see_layers(self, loss: Tensor, policy: PolicyReading | None) -> None:
        """Which layers the policy depends on, and which only the rest of the loss does."""
        if (self._with_policy if policy is not None else self._read) > ORDERS:
            return
        layers = {id(p): n.named(layer_of(name)) for n in self._networks for name, p in n.trained().items()}
        if layers:
            self._layers |= _leading(layers, (node for node, _ in walk(loss.grad_fn)))
        for node in policy.log_probabilities[:1] if policy is not None and layers else ():
            self._acting |= _leading(layers, below(node, MOST_NODES))


def _leading(layers: dict[int, str], nodes: Any) -> set[str]:
    found = (id(getattr(node, "variable", None)) for node in nodes)
    return {layers[key] for key in found if key in layers}


def _value_rows(step: int, owner: Network, regression: Regression) -> list[Row]:
    layer, rows = owner.named(NETWORK), list[Row]()
    target, prediction = regression.target, regression.prediction
    if target is not None and target.numel():
        target = target.float()
        rows += [(step, RETURNS, layer, float(target.mean())), (step, TARGETS, layer, _size(target))]
    if prediction is not None and prediction.numel():
        prediction = prediction.float()
        rows.append((step, PREDICTIONS, layer, _size(prediction)))
        if target is not None and target.shape == prediction.shape and target.numel() > 1:
            left, whole = float((target - prediction).var()), float(target.var())
            rows.append((step, FIT, layer, 1 - left / whole if whole > ALIKE * _size(target) ** 2 else None))
    return rows


def _size(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
