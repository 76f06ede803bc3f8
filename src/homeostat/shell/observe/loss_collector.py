"""Facts about the losses of a run over time, from their graphs at a few steps, before the backward pass."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from homeostat.core.snapshot import layer_of
from homeostat.diagnosis.facts import LossFacts
from homeostat.shell.hooks.layer_order import layers_after
from homeostat.shell.hooks.loss_graph import MOST_CLASSES, NEAR, LossReading, criteria, read_loss
from homeostat.shell.hooks.torch_internals import BATCH_NORM, DROPOUT, is_plain, version_of
from homeostat.shell.network import Network
from homeostat.shell.observe.activation_hooks import Guarding
from homeostat.shell.observe.cadence import next_loss_reading
from homeostat.shell.observe.frozen_collector import FrozenCollector
from homeostat.shell.observe.layer_collector import LayerCollector
from homeostat.shell.observe.observer import Row
from homeostat.shell.observe.output_collector import OutputCollector
from homeostat.shell.observe.policy_collector import PolicyCollector

ORDERS = 4
"""Number of readings of the order of the layers, because several losses may alternate."""
KEPT = 160
"""Number of stored readings of the labels."""
GONE = 40
"""Number of steps without a class after which it counts as absent."""


class LossCollector:
    """Counts the results of `read_loss` for a run.

    A reading walks the graph once and transfers a few numbers from the device. Between readings there is no work.

    Args:
        guard: wraps what is done inside the user's passes.

    Attributes:
        next: the step whose loss is read next.
        readers: called with (step, loss) at every reading, too.
        policies: what the losses show of policies and values.
        frozen: layers that stay as they are amid trained ones.
    """

    def __init__(self, guard: Guarding) -> None:
        self._networks = list[Network]()
        self.policies = PolicyCollector(self._networks, guard)
        self.frozen = FrozenCollector(self._networks, guard)
        self.next = 1
        self.readers: list[Callable[[int, Tensor], None]] = []
        self._facts: dict[str, Any] = {}
        self._layers, self._outputs = LayerCollector(), OutputCollector()
        self._eval_mode, self._eval_since = 0, 0
        self._labels: deque[tuple[int, list[int], int]] = deque(maxlen=KEPT)
        self._last_seen: dict[int, int] = {}
        self._returned: set[int] = set()
        self._weights: list[bool] = []
        self._spreads: deque[float] = deque(maxlen=KEPT)
        self._variances: deque[float] = deque(maxlen=KEPT)
        self._versions: dict[str, tuple[int, int]] = {}
        self._items = 1
        self._orders, self._after = 0, dict[str, tuple[str, ...]]()

    def follow(self, network: Network) -> None:
        """Losses of this network are read from now on."""
        self._networks.append(network)
        self.policies.targets.start(network)

    def due(self, step: int) -> bool:
        """Whether a loss of this step (first: 1) is to be read."""
        return step >= self.next or self.policies.due(step)

    def read(self, step: int, loss: Tensor) -> list[Row]:
        """Read what is due in the graph of a loss before its backward pass; returns rows for the record.

        Only the first backward pass of a step is counted; policies are also read in others.
        """
        if step >= self.next:
            self.see(step, loss)
        return self.policies.see(step, loss) if self.policies.due(step) else []

    def see(self, step: int, loss: Tensor) -> None:
        """Count what the graph of a loss shows."""
        self.next = next_loss_reading(step)
        self._look_at_gradients()
        for read in self.readers:
            read(step, loss)
        reading = read_loss(loss)
        if reading is None:
            return
        self._count("readings")
        self._count("duplicated_softmax", reading.duplicated_softmax)
        self._count("softmax_dims", bool(reading.softmax_dim))
        self._count("broadcasts", reading.broadcast is not None)
        if reading.softmax_dim:
            self._facts["softmax_dim"] = reading.softmax_dim
        if reading.broadcast is not None:
            outputs, shape = reading.broadcast
            self._facts["broadcast"] = f"outputs {list(outputs)} give a loss over {list(shape)}"
        self._layers.see(step, reading)
        self._outputs.see(criteria(loss, NEAR))
        self._see_modes(step)
        self._see_order(loss)
        self._see_parameters(reading)
        self.frozen.see(loss)
        self._see_labels(reading, step)
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
        early = self._weights[: max(len(self._weights) // 4, 1)]
        counts = [numbers for _, numbers, _ in self._labels]
        order, share = self._order()
        return LossFacts(
            **self._facts,
            **self._layers.facts(),
            **self._outputs.facts(),
            eval_mode=self._eval_mode,
            eval_since=self._eval_since,
            after=self._after,
            unheld=tuple(name for name, (before, after) in self._versions.items() if before == after),
            chance=self._items * _entropy([sum(c) for c in zip(*counts, strict=True)]) if counts else math.nan,
            target_variance=median(self._variances) if self._variances else math.nan,
            early_entropy=_together(counts[: max(len(counts) // 4, 1)]),
            late_entropy=_together(counts[-max(len(counts) // 4, 1) :]),
            label_order=order,
            label_share=share,
            zero_weights=sum(self._weights),
            weights=len(self._weights),
            spreads=len(self._spreads),
            spread=median(list(self._spreads)[-5:]) if self._spreads else math.nan,
            early_zero_weights=sum(early) / len(early) if early else math.nan,
        )

    def _count(self, name: str, by: int = 1) -> None:
        self._facts[name] = self._facts.get(name, 0) + int(by)

    def _look_at_gradients(self) -> None:
        """Whether gradients of the previous step still exist at the first backward pass after it.

        Only for one network with one optimizer: with several, a loss leaves gradients in networks that it only passes
        through, and their optimizers clear them later.
        """
        network = self._networks[0] if len(self._networks) == 1 else None
        if network is None or not network.step or network.stepped or len(network.optimizers) > 1:
            return
        grad = next((p.grad for p in network.trained().values() if p.grad is not None), None)
        left = grad is not None and is_plain(grad) and bool(grad.detach().any())
        self._count("clear_checks")
        self._count("uncleared", left)

    def _see_modes(self, step: int) -> None:
        moody = False
        for network in self._networks:
            model = network.model
            if not model.training and any(isinstance(m, (BATCH_NORM, DROPOUT)) for m in model.modules()):
                moody |= not any(m.training for m in model.modules())
        if moody and not self._eval_mode:
            self._eval_since = step
        self._eval_mode = self._eval_mode + 1 if moody else 0

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

    def _see_labels(self, reading: LossReading, step: int) -> None:
        if reading.labels is None or not 1 < reading.classes <= MOST_CLASSES or not reading.labels.numel():
            return
        self._facts["classes"] = reading.classes
        self._items = reading.labels.numel() if reading.summed else 1
        counts = torch.bincount(reading.labels, minlength=reading.classes).tolist()
        if len(counts) != reading.classes:
            return
        before = self._labels[-1][0] if self._labels else step
        for label, count in enumerate(counts):
            if count:
                last = self._last_seen.get(label, step)
                if step - last > GONE and last < before:  # it did not exist at the previous reading
                    self._returned.add(label)
                self._last_seen[label] = step
        self._labels.append((step, counts, len(self._last_seen)))

    def _order(self) -> tuple[str, float]:
        """The order of the classes: whether a batch has few of the classes so far, and whether classes come back."""
        counts, seen = [numbers for _, numbers, _ in self._labels], len(self._last_seen)
        if len(counts) < 8 or seen < 3:
            return "", math.nan
        share = median(sum(n > 0 for n in numbers) / min(met, sum(numbers)) for _, numbers, met in self._labels)
        if share > 0.5:
            return "", share
        return ("recurring" if self._returned or self._interleaved(counts) else "vanishing"), share

    def _interleaved(self, counts: Sequence[Sequence[int]]) -> bool:
        """Whether classes come back between the stored readings."""
        runs = 0
        for column in zip(*counts, strict=True):
            present = [n > 0 for n in column]
            runs += max(sum(a and not b for a, b in zip(present, [*present[1:], False], strict=True)) - 1, 0)
        return runs > len(self._last_seen)

    def _see_inputs(self, reading: LossReading) -> None:
        if reading.inputs is None or reading.inputs.ndim < 2 or len(reading.inputs) < 2:
            return
        rows = reading.inputs.float().flatten(1)
        size, deviation, mean = rows.square().mean().sqrt(), rows.std(0), rows.mean(0).abs()
        offset = (mean / deviation.clamp_min(1e-12))[deviation > 1e-6]
        self._facts["input_size"] = float(size)
        self._facts["input_offset"] = float(offset.median()) if offset.numel() else 0.0


def hidden_parameters(model: nn.Module) -> dict[int, str]:
    """id -> name of the parameters that modules keep in plain lists, tuples or dictionaries, where `parameters()` does
    not find them."""
    known, found = {id(p) for p in model.parameters()}, {}
    for prefix, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute.startswith("_") or not isinstance(value, (list, tuple, dict)):
                continue
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                name = ".".join(filter(None, [prefix, attribute, str(key)]))
                inside = item.named_parameters() if isinstance(item, nn.Module) else [("", item)]
                for inner, parameter in inside:
                    if isinstance(parameter, nn.Parameter) and id(parameter) not in known:
                        found[id(parameter)] = f"{name}.{inner}" if inner else name
    return found


def _together(counts: Sequence[Sequence[int]]) -> float:
    """Entropy of the labels of several readings."""
    return _entropy([sum(column) for column in zip(*counts, strict=True)]) if counts else math.nan


def _entropy(counts: Sequence[int]) -> float:
    total = sum(counts)
    return -sum(n / total * math.log(n / total) for n in counts if n) if total else math.nan
