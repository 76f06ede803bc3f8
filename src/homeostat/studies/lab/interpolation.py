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
        """Gradient of the mean loss on some items [..., n, d], and the errors [..., n]. Leading axes are broadcast."""
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
        before = inputs @ weights["w"].swapaxes(-1, -2)
        hidden = np.maximum(before, 0)
        errors = (hidden @ weights["a"][..., None])[..., 0] - targets
        back = (before > 0) * (errors[..., None] * weights["a"][..., None, :])
        n = targets.shape[-1]
        slope = (errors[..., None, :] @ hidden)[..., 0, :]
        return {"w": back.swapaxes(-1, -2) @ inputs / n, "a": slope / n}, errors

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
        errors = (inputs @ (u * u - v * v)[..., None])[..., 0] - targets
        pull = 2 * (errors[..., None, :] @ inputs)[..., 0, :] / targets.shape[-1]
        return {"u": pull * u, "v": -pull * v}, errors

    def outputs(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        return inputs @ (weights["u"].square() - weights["v"].square())

    def norm(self, weights: Weights) -> Array:
        return (weights["u"] ** 2 + weights["v"] ** 2).sum(1)


def fit(
    model: Model,
    items: Sequence[Items],
    rates: Sequence[float],
    batch: int,
    steps: int,
    generators: Sequence[np.random.Generator],
) -> list[Weights]:
    """Train from the same weights at every learning rate, on the same batches; 0 takes all items at every step.

    Weights that are no longer finite stay so; nothing is clipped.

    Args:
        items, generators: one for each seed. All seeds are trained at once, none depends on another.

    Returns:
        The weights of every seed [E, ...].
    """
    starts = [model.start(its, len(rates), g) for its, g in zip(items, generators, strict=True)]
    weights = {name: np.stack([start[name] for start in starts]) for name in starts[0]}
    inputs, targets = np.stack([its.inputs for its in items]), np.stack([its.targets for its in items])
    eta, n, seeds = np.asarray(rates), targets.shape[1], np.arange(len(items))[:, None]
    orders = np.stack([g.integers(0, n, (steps, batch)) for g in generators], 1) if batch else None
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(steps):
            # [S, 1, n, d] and [S, 1, n]: the same items for every learning rate
            x, y = (inputs, targets) if orders is None else (inputs[seeds, orders[step]], targets[seeds, orders[step]])
            gradient, _ = model.gradient(weights, x[:, None], y[:, None])
            for name, g in gradient.items():
                weights[name] -= eta.reshape(-1, *(1,) * (g.ndim - 2)) * g
    return [{name: w[place] for name, w in weights.items()} for place in range(len(items))]


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
