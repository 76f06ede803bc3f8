"""Direct measurement of plasticity: how well a copy of the network fits new random targets in a few steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob, option
from homeostat.core.random import Draw
from homeostat.core.snapshot import Probe, Reading, Readings
from homeostat.core.vital import NetworkVital, Reducers
from homeostat.vitals.tensors import flat_parameters, known, precise, real

Parameters = dict[str, Tensor]
COLUMNS = 16
"""At most this many outputs per sample are fitted."""


def plasticity(
    probe: Probe,
    steps: int = 100,
    learning_rate: float = 1e-3,
    optimizer: str = "adam",
    target: str = "network",
    frequency: float = 1e5,
    draws: int = 1,
    around: str = "outputs",
) -> Tensor:
    """Share of the variance of new random targets that a copy of the network learns in `steps` optimizer steps.

    P = (b - mean over targets g of loss(theta_T; g)) / b. A new optimizer takes T full-batch steps from the probe's
    parameters on the squared error between outputs and g. b is the squared error of predicting the mean of g. The paper
    does not define b and does not divide by it; the division makes networks comparable.

    With `around` = "outputs" (the default, our choice) g is added to the network's current outputs, so every network
    starts at P = 0. With "zero" g itself is the target, and a trained classifier must first unlearn its large logits,
    which hides its plasticity: on a digits network 100 steps gave P = 0.69 fresh, 0.71 after one task and 0.31 after 40
    (94% of the first layer dead) with "outputs", but 0.69, -1.70 and -3.29 with "zero".

    Args:
        probe: the probe. Its targets and loss are not used.
        steps: T.
        learning_rate: of the new optimizer; fixed, so that the run's schedule does not affect P.
        optimizer: "adam" (betas 0.9, 0.999, eps 1e-8) or "sgd".
        target: "network", sin(frequency * random network of the inputs), or "noise", one standard normal per sample and
            output. Inputs that are not floating point always get noise.
        frequency: a large value makes the targets of similar inputs unrelated, so that they must be memorised.
        draws: number of targets; each is fitted from the same parameters, and the results are averaged.
        around: "outputs" or "zero", see above.

    Returns:
        [] in (-inf, 1]: 1 is a perfect fit, 0 means nothing was learned, negative is worse. NaN for fewer than 2
        samples, targets without variance (all inputs equal), no parameters, or a fit that is not finite.

    Cost: draws * steps * (forward + backward on the probe batch). Deterministic in `probe.draw`.

    Source: Lyle et al. (2023), arXiv:2303.01486.
    """
    keys = [probe.draw.at("plasticity", i) for i in range(draws)]
    with torch.no_grad():
        start = real(_columns(probe.outputs(probe.parameters))).detach()
    start = start if around == "outputs" else torch.zeros_like(start)
    targets = [fresh_targets(probe, target, frequency, key) for key in keys]
    return torch.stack([_fit(probe, g, start, steps, learning_rate, optimizer) for g in targets]).mean()


def fresh_targets(probe: Probe, kind: str, frequency: float, draw: Draw) -> Tensor:
    """Random targets [N, K] for the probe's inputs, K the outputs per sample (at most `COLUMNS`).

    The random network has one hidden layer of 64 ReLUs and normal weights with variance 2 / fan-in. Its inputs are
    divided by their root mean square.
    """
    with torch.no_grad():
        like = precise(_columns(probe.outputs(probe.parameters)))
    if kind == "noise" or not probe.inputs.is_floating_point():
        return draw.normal("targets", like)
    x = precise(probe.inputs.detach())
    x = x.flatten(1) if x.ndim > 1 else x[:, None]
    x = x / x.square().mean().sqrt()
    first = draw.normal("first", x.new_empty(x.shape[1], 64)) * (2 / max(x.shape[1], 1)) ** 0.5
    second = draw.normal("second", x.new_empty(64, like.shape[1])) * (2 / 64) ** 0.5
    return torch.sin(frequency * (torch.relu(x @ first) @ second))


def _columns(outputs: Tensor) -> Tensor:
    return outputs.flatten(1)[:, :COLUMNS] if outputs.ndim > 1 else outputs[..., None]


def _fit(probe: Probe, targets: Tensor, around: Tensor, steps: int, learning_rate: float, optimizer: str) -> Tensor:
    """1 - final squared error / variance of the targets, from the probe's parameters."""
    flat, named = flat_parameters(probe.parameters)
    baseline = (targets - targets.mean(0)).square().mean()
    targets = targets.to(flat.dtype) + around
    step, memory = _STEPS[optimizer], torch.zeros(2, flat.numel(), dtype=flat.dtype, device=flat.device)
    for t in range(1, steps + 1):
        gradient = _gradient(probe, named, flat, targets)
        if gradient is None:
            return flat.new_full((), float("nan"))
        flat, memory = step(flat, gradient, memory, t, learning_rate)
    with torch.no_grad():
        final = (real(_columns(probe.outputs(named(flat)))) - targets).square().mean()
    return known(1 - final / baseline.to(final.dtype), (baseline > 1e-12) & final.isfinite())


def _gradient(probe: Probe, named: Callable[[Tensor], Parameters], flat: Tensor, targets: Tensor) -> Tensor | None:
    """Gradient [P] of the squared error, or None if the outputs do not depend on the parameters."""
    with torch.enable_grad():
        flat = flat.detach().requires_grad_()
        outputs = probe.outputs(named(flat)) if flat.numel() else targets
        if not outputs.requires_grad:
            return None
        return torch.autograd.grad((real(_columns(outputs)) - targets).square().mean(), flat)[0]


def _adam(flat: Tensor, gradient: Tensor, memory: Tensor, t: int, rate: float) -> tuple[Tensor, Tensor]:
    mean, square = memory.unbind()
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient.square()
    size = (square / (1 - 0.999**t)).sqrt_().add_(1e-8)
    return flat - (rate / (1 - 0.9**t)) * mean / size, torch.stack([mean, square])


def _sgd(flat: Tensor, gradient: Tensor, memory: Tensor, t: int, rate: float) -> tuple[Tensor, Tensor]:
    return flat - rate * gradient, memory


_STEPS = {"adam": _adam, "sgd": _sgd}


@dataclass(frozen=True, kw_only=True)
class Plasticity(NetworkVital):
    """How well a copy of the network fits new random targets on the probe's inputs: `plasticity`.

    Settings:
        steps: optimizer steps of the fit.
        learning_rate: of the new optimizer of the fit.
        optimizer: "adam" or "sgd".
        target: "network" or "noise".
        frequency: factor inside the sine of the targets.
        draws: number of targets.
        around: what the targets are added to, the network's current "outputs" or "zero".

    >>> from homeostat.core.random import Draw
    >>> x = torch.eye(2)
    >>> probe = Probe({"w": torch.ones(2)}, x, x, lambda p: x * p["w"], lambda p: (x * p["w"]).square().sum(), Draw(0))
    >>> float(Plasticity()(Readings(probe=probe))["network"]) <= 1
    True
    """

    cite = Cite.of("plasticity-probe")
    reads = frozenset({Reading.PROBE})
    range = (float("-inf"), 1.0)
    worse = "lower"
    unit = "share of the targets' variance"
    cost = "heavy"
    reducers: ClassVar[Reducers] = {"value": "max"}
    steps: int = knob(
        100, low=1, high=100_000, unit="steps", integer=True, source="our choice: enough for a fresh network"
    )
    learning_rate: float = knob(1e-3, low=1e-8, high=10.0, unit="1/step", source="Adam's usual default")
    optimizer: str = option("adam", choices=("adam", "sgd"))
    target: str = option("network", choices=("network", "noise"))
    frequency: float = knob(1e5, low=1e-3, unit="radians", source="our choice; 'a large constant' in the paper")
    around: str = option("outputs", choices=("outputs", "zero"))
    draws: int = knob(1, low=1, high=1000, unit="targets", integer=True, source="our choice: cost")

    def fields(self, readings: Readings) -> Mapping[str, Tensor] | None:
        if readings.probe is None:
            return None
        return {"value": plasticity(readings.probe, **self.settings())}
