"""Two models that can fit their data exactly, trained with one item a step or with all, at several rates at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from homeostat.core.random import Draw
from homeostat.core.snapshot import Probe

Array = NDArray[np.floating[Any]]
Weights = dict[str, Array]
"""Parameters with a leading axis for the learning rates, [E, ...]."""


@dataclass(frozen=True)
class Items:
    """Inputs [N, d] and targets [N] to fit, and as many as wanted to test on."""

    inputs: Array
    targets: Array
    test_inputs: Array
    test_targets: Array


class Model:
    """A scalar function of its inputs whose gradient is written out; the loss is half the mean squared error."""

    def start(self, items: Items, rates: int, generator: np.random.Generator) -> Weights:
        """Initial weights, the same for every learning rate."""
        raise NotImplementedError

    def gradient(self, weights: Weights, inputs: Array, targets: Array) -> tuple[Weights, Array]:
        """Gradient of the mean loss on some items, and the errors [E, n]."""
        raise NotImplementedError

    def outputs(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """The same function for one learning rate, in torch: [n]."""
        raise NotImplementedError

    def norm(self, weights: Weights) -> Array:
        """The path norm [E]."""
        raise NotImplementedError


class TwoLayer(Model):
    """f(x) = sum_j a_j relu(w_j . x), with a constant input for the bias."""

    def __init__(self, width: int) -> None:
        self.width = width

    def start(self, items: Items, rates: int, generator: np.random.Generator) -> Weights:
        d = items.inputs.shape[1]
        w = generator.standard_normal((self.width, d)) * np.sqrt(2 / d)
        a = generator.standard_normal(self.width) / np.sqrt(self.width)
        return {"w": np.repeat(w[None], rates, 0), "a": np.repeat(a[None], rates, 0)}

    def gradient(self, weights: Weights, inputs: Array, targets: Array) -> tuple[Weights, Array]:
        before = inputs @ weights["w"].swapaxes(1, 2)
        hidden = np.maximum(before, 0)
        errors = (hidden @ weights["a"][:, :, None])[..., 0] - targets
        back = (before > 0) * (errors[..., None] * weights["a"][:, None])
        n = len(targets)
        return {"w": back.swapaxes(1, 2) @ inputs / n, "a": (errors[:, None] @ hidden)[:, 0] / n}, errors

    def outputs(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return torch.relu(inputs @ weights["w"].T) @ weights["a"]

    def norm(self, weights: Weights) -> Array:
        return (np.abs(weights["a"]) * np.linalg.norm(weights["w"], axis=2)).sum(1)


class Diagonal(Model):
    """f(x) = sum_j (u_j^2 - v_j^2) x_j, started at u = v = `scale`."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def start(self, items: Items, rates: int, generator: np.random.Generator) -> Weights:
        same = np.full((rates, items.inputs.shape[1]), self.scale)
        return {"u": same.copy(), "v": same.copy()}

    def gradient(self, weights: Weights, inputs: Array, targets: Array) -> tuple[Weights, Array]:
        u, v = weights["u"], weights["v"]
        errors = (u * u - v * v) @ inputs.T - targets
        pull = 2 * errors @ inputs / len(targets)
        return {"u": pull * u, "v": -pull * v}, errors

    def outputs(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return inputs @ (weights["u"].square() - weights["v"].square())

    def norm(self, weights: Weights) -> Array:
        return (weights["u"] ** 2 + weights["v"] ** 2).sum(1)


def fit(
    model: Model, items: Items, rates: Sequence[float], batch: int, steps: int, generator: np.random.Generator
) -> Weights:
    """Train from the same weights at every learning rate, on the same batches; 0 takes all items at every step.

    Weights that are no longer finite stay so; nothing is clipped.
    """
    weights = model.start(items, len(rates), generator)
    eta, n = np.asarray(rates), len(items.targets)
    order = generator.integers(0, n, (steps, batch)) if batch else None
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(steps):
            chosen = slice(None) if order is None else order[step]
            gradient, _ = model.gradient(weights, items.inputs[chosen], items.targets[chosen])
            for name, g in gradient.items():
                weights[name] -= eta.reshape(-1, *(1,) * (g.ndim - 1)) * g
    return weights


def probe_of(model: Model, weights: Weights, index: int, items: Items, seed: int) -> Probe:
    """What the curvature vitals look at: the network of one learning rate with all items it was fitted to."""
    inputs, targets = torch.from_numpy(items.inputs), torch.from_numpy(items.targets)
    return Probe(
        parameters={name: torch.from_numpy(w[index].copy()) for name, w in weights.items()},
        inputs=inputs,
        targets=targets,
        outputs=lambda p: model.outputs(p, inputs),
        loss=lambda p: (model.outputs(p, inputs) - targets).square().mean() / 2,
        draw=Draw(seed, ("interpolation", index)),
    )


def sparse_regression(dimension: int, items: int, nonzero: int, test: int, generator: np.random.Generator) -> Items:
    """Normal inputs, targets without noise from a vector with so many entries of +-1."""
    truth = np.zeros(dimension)
    truth[:nonzero] = generator.choice([-1.0, 1.0], nonzero)
    x, y = (generator.standard_normal((n, dimension)) for n in (items, test))
    return Items(x, x @ truth, y, y @ truth)


def parity_of_digits(inputs: Tensor, labels: Tensor, items: int, generator: np.random.Generator) -> Items:
    """Digits with target +1 for odd and -1 for even ones, a constant 1 appended; the rest of them to test on."""
    order = generator.permutation(len(labels))
    x = np.hstack([inputs.flatten(1).double().numpy(), np.ones((len(labels), 1))])[order]
    y = (2.0 * (labels.numpy() % 2) - 1)[order]
    return Items(x[:items], y[:items], x[items:], y[items:])
