"""Plasticity, measured directly: how well a copy of the network fits fresh random targets in a few steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob, option
from homeostat.core.draw import Draw
from homeostat.core.readings import Probe, Reading, Readings
from homeostat.core.vital import NETWORK, Partials, Reducer, Vital
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
    """Share of the variance of fresh targets that a copy of the network learns in `steps` optimizer steps.

    P = (b - mean over targets g of loss(theta_T; g)) / b. From the probe's parameters a fresh optimizer takes T full-
    batch steps on the squared error between outputs and g; b is the squared error of predicting the mean of g. The
    paper leaves b open and does not divide by it; divided, values compare across networks.

    With `around` = "outputs" (the default, and ours) g is added to the network's present outputs, so that every network
    starts at P = 0. With "zero" it is fitted as it is; a trained classifier must then first unlearn its large logits,
    which hides what is asked: on a digits network 100 steps gave P = 0.69 fresh, 0.71 after one task and 0.31 after 40
    (94% of the first layer dead) with "outputs", but 0.69, -1.70 and -3.29 with "zero".

    Args:
        probe: the probe. Its targets and loss are not used.
        steps: T.
        learning_rate: of the fresh optimizer; fixed, so that the run's own schedule is not read as plasticity.
        optimizer: "adam" (betas 0.9, 0.999, eps 1e-8) or "sgd".
        target: "network", sin(frequency * random network of the inputs), or "noise", one standard normal per sample and
            output. Inputs that are not floating point always get noise.
        frequency: large makes neighbours' targets unrelated, so that they must be memorised.
        draws: number of targets averaged over, each from the same parameters.
        around: "outputs" or "zero", see above.

    Returns:
        [] in (-inf, 1]: 1 fits perfectly, 0 has learnt nothing, negative is worse. NaN for fewer than 2 samples,
        targets without variance (all inputs equal), no parameters, or a fit that is not finite.

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

    The random network has one hidden layer of 64 ReLUs, weights normal with variance 2 / fan-in, and sees the inputs
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
    """Gradient [P] of the squared error, or None when the outputs do not depend on the parameters."""
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
class Plasticity(Vital):
    """How well a copy of the network fits fresh random targets on the probe's inputs: `plasticity`.

    Settings:
        steps: optimizer steps of the fit.
        learning_rate: of the fit's own, fresh optimizer.
        optimizer: "adam" or "sgd".
        target: "network" or "noise".
        frequency: factor inside the sine of the targets.
        draws: targets averaged over.
        around: what the targets are added to, the network's present "outputs" or "zero".

    >>> from homeostat.core.draw import Draw
    >>> x = torch.eye(2)
    >>> probe = Probe({"w": torch.ones(2)}, x, x, lambda p: x * p["w"], lambda p: (x * p["w"]).square().sum(), Draw(0))
    >>> float(Plasticity()(Readings(probe=probe))["network"]) <= 1
    True
    """

    cite = Cite("Lyle et al.", 2023, "Understanding Plasticity in Neural Networks", "2303.01486")
    entries = ("plasticity-probe",)
    reads = frozenset({Reading.PROBE})
    range = (float("-inf"), 1.0)
    worse: ClassVar[Literal["higher", "lower", "neither"]] = "lower"
    unit = "share of the targets' variance"
    cost: ClassVar[Literal["cheap", "moderate", "heavy"]] = "heavy"
    reducers: ClassVar[Mapping[str, Reducer]] = {"value": "max"}
    steps: int = knob(100, low=1, high=100_000, unit="steps", integer=True, source="ours: enough for a fresh network")
    learning_rate: float = knob(1e-3, low=1e-8, high=10.0, unit="1/step", source="Adam's usual default")
    optimizer: str = option("adam", choices=("adam", "sgd"))
    target: str = option("network", choices=("network", "noise"))
    frequency: float = knob(1e5, low=1e-3, unit="radians", source="ours, after 'a large constant' in the paper")
    around: str = option("outputs", choices=("outputs", "zero"))
    draws: int = knob(1, low=1, high=1000, unit="targets", integer=True, source="ours: cost")

    def measure(self, readings: Readings) -> Partials:
        if readings.probe is None:
            return {}
        return {NETWORK: {"value": plasticity(readings.probe, **self.settings())}}

    def finish(self, partials: Partials) -> dict[str, Tensor]:
        return {layer: fields["value"] for layer, fields in partials.items()}
