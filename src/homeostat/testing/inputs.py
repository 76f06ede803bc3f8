"""Readings to check vitals on: a healthy step, degenerate and awkward variants, and functions that split it.

The step is that of a small network 6 -> fc1 (ReLU) -> fc2 (tanh) -> head, drawn from a seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from homeostat.core.random import Draw
from homeostat.core.snapshot import Probe, Reading, Readings, Twin, layer_of

Tensors = dict[str, Tensor]


def readings(
    seed: int = 0, samples: int = 48, widths: tuple[int, int] = (12, 7), dtype: torch.dtype = torch.float32
) -> Readings:
    """A healthy training step of a single run.

    Args:
        seed: seed of all random values.
        samples: N, the batch size.
        widths: units of fc1 and fc2.
        dtype: of every tensor.
    """
    draw = Draw(seed, ("testing",))
    parameters = _parameters(draw.at("weights"), (6, *widths, 3), dtype)
    x = draw.normal("inputs", torch.empty(samples, 6)).to(dtype)
    fc1 = torch.relu(x @ parameters["fc1.weight"].T + parameters["fc1.bias"])
    fc2 = torch.tanh(fc1 @ parameters["fc2.weight"].T + parameters["fc2.bias"])
    gradients = {n: (0.1 * draw.normal(f"gradient {n}", p)).to(dtype) for n, p in parameters.items()}
    return Readings(
        step=7,
        activations={"fc1": fc1, "fc2": fc2},
        nonlinearity={"fc1": "relu", "fc2": "tanh"},
        weights=parameters,
        gradients=gradients,
        updates={n: -0.01 * g for n, g in gradients.items()},
        loss=draw.uniform("loss", torch.empty(())).to(dtype) + 0.5,
        initial={n: p + 0.1 for n, p in parameters.items()},
        probe=small_probe(seed, dtype=dtype),
        twin=small_twin(parameters, seed),
        tasks=small_tasks(parameters, seed),
        present="second",
    )


def small_probe(
    seed: int = 0, samples: int = 8, dtype: torch.dtype = torch.float32, inputs: Tensor | None = None
) -> Probe:
    """A probe of a 3 -> 4 (tanh) -> 2 regression network; `inputs` [N, 3] replaces the drawn ones."""
    draw = Draw(seed, ("testing", "probe"))
    parameters = _parameters(draw.at("weights"), (3, 4, 2), dtype)
    x = draw.normal("inputs", torch.empty(samples, 3)).to(dtype) if inputs is None else inputs
    targets = draw.normal("targets", torch.empty(len(x), 2)).to(dtype)

    def outputs(p: Mapping[str, Tensor]) -> Tensor:
        hidden = torch.tanh(x @ p["fc1.weight"].T + p["fc1.bias"])
        return hidden @ p["fc2.weight"].T + p["fc2.bias"]

    return Probe(parameters, x, targets, outputs, lambda p: (outputs(p) - targets).square().mean(), draw, 0.01, "SGD")


def small_tasks(parameters: Mapping[str, Tensor], seed: int = 0) -> dict[str, Probe]:
    """Evaluation items of two tasks of the step's own network: 20 items and 3 classes each."""
    draw = Draw(seed, ("testing", "tasks"))

    def made(task: str) -> Probe:
        x = draw.normal(f"{task} inputs", torch.empty(20, 6))
        targets = (3 * draw.uniform(f"{task} targets", torch.empty(20))).long()

        def outputs(p: Mapping[str, Tensor]) -> Tensor:
            fc1 = torch.relu(x.to(p["fc1.weight"]) @ p["fc1.weight"].T + p["fc1.bias"])
            return torch.tanh(fc1 @ p["fc2.weight"].T + p["fc2.bias"]) @ p["head.weight"].T + p["head.bias"]

        def loss(p: Mapping[str, Tensor]) -> Tensor:
            return torch.nn.functional.cross_entropy(outputs(p).float(), targets)

        return Probe(parameters, x, targets, outputs, loss, draw, 0.01, "SGD")

    return {task: made(task) for task in ("first", "second")}


def small_twin(own: Mapping[str, Tensor], seed: int = 0) -> Twin:
    """The step's network and a slightly perturbed copy, with a loss on 20 items."""
    draw = Draw(seed, ("testing", "twin"))
    other = {n: (w + 0.3 * draw.normal(n, w)).to(w.dtype) for n, w in own.items()}
    return Twin(own, other, _Way(own, other, draw.normal("inputs", torch.empty(20, 6))))


@dataclasses.dataclass(frozen=True)
class _Way:
    """The loss between two networks, with its parts as fields, so that they can be changed."""

    own: Mapping[str, Tensor]
    other: Mapping[str, Tensor]
    x: Tensor

    def __call__(self, share: Tensor) -> Tensor:
        p = {n: share.to(w) * w + (1 - share).to(w) * self.other[n] for n, w in self.own.items()}
        fc1 = torch.relu(self.x.to(p["fc1.weight"]) @ p["fc1.weight"].T + p["fc1.bias"])
        fc2 = torch.tanh(fc1 @ p["fc2.weight"].T + p["fc2.bias"])
        return torch.logsumexp((fc2 @ p["head.weight"].T + p["head.bias"]).float(), -1).mean()

    def changed(self, change: Callable[[Tensor], Tensor]) -> _Way:
        own, other = ({n: change(w) for n, w in each.items()} for each in (self.own, self.other))
        return _Way(own, other, self.x)


def _changed_twin(twin: Twin | None, change: Callable[[Tensor], Tensor]) -> Twin | None:
    if twin is None or not isinstance(twin.along, _Way):
        return twin
    way = twin.along.changed(change)
    return Twin(way.own, way.other, way)


def _part_of_twin(twin: Twin | None, layers: Callable[[str], bool], along: bool) -> Twin | None:
    """Only some layers of both networks, with or without the loss between them."""
    if twin is None:
        return None
    own, other = ({n: w for n, w in each.items() if layers(layer_of(n))} for each in (twin.own, twin.other))
    return Twin(own, other, twin.along if along else None)


def _stacked_twins(twins: Sequence[Twin]) -> Twin:
    names = twins[0].own
    own, other = ({n: torch.stack([getattr(t, f)[n] for t in twins]) for n in names} for f in ("own", "other"))
    return Twin(own, other)


def degenerate(seed: int = 0) -> dict[str, Readings]:
    """Steps on which most vitals are missing: name -> readings."""
    healthy = readings(seed)
    return {
        "nothing captured": Readings(),
        "no samples": _batch(seed, 0),
        "one sample": _batch(seed, 1),
        "NaN": _spoiled(healthy, float("nan")),
        "infinity": _spoiled(healthy, float("inf")),
        "NaN in half precision": _spoiled(readings(seed, dtype=torch.float16), float("nan")),
    }


def awkward(seed: int = 0) -> dict[str, Readings]:
    """Steps that are unusual but complete: name -> readings. A vital may return any value in its range, or NaN."""
    healthy = readings(seed)
    h = healthy.activations["fc1"]
    one_hot = torch.eye(h.shape[1])[torch.arange(len(h)) % h.shape[1]]
    return {
        "healthy": healthy,
        "all zero": _everywhere(healthy, torch.zeros_like),
        "constant": _everywhere(healthy, lambda t: torch.full_like(t, 0.75)),
        "one-hot": dataclasses.replace(healthy, activations={"fc1": one_hot, "fc2": one_hot}),
        "half the units dead": dataclasses.replace(healthy, activations={"fc1": h * (torch.arange(h.shape[1]) < 6)}),
        "one unit": readings(seed, widths=(1, 1)),
        "wider than the batch": readings(seed, samples=20, widths=(40, 150)),
        "huge": _everywhere(healthy, lambda t: t * 1e30),
        "tiny": _everywhere(healthy, lambda t: t * 1e-30),
        "float16": readings(seed, dtype=torch.float16),
        "bfloat16": readings(seed, dtype=torch.bfloat16),
        "float64": readings(seed, dtype=torch.float64),
        "not contiguous": strided(healthy),
    }


def differing(cases: Mapping[str, Readings], reads: frozenset[Reading]) -> dict[str, Readings]:
    """The cases without those that differ only in readings that are not read (probes are costly to measure)."""
    if reads != {Reading.PROBE}:
        return dict(cases)
    found: dict[str, Readings] = {}
    for name, step in cases.items():
        if not any(_one_probe(step.probe, other.probe) for other in found.values()):
            found[name] = step
    return found


def _one_probe(first: Probe | None, second: Probe | None) -> bool:
    if first is None or second is None:
        return first is second
    same = first.inputs.dtype == second.inputs.dtype and torch.equal(first.inputs, second.inputs)
    return same and all(torch.equal(first.parameters[n], second.parameters[n]) for n in first.parameters)


def everything(step: Readings, change: Callable[[Tensor], Tensor]) -> Readings:
    """The step with `change` applied to every tensor except the probe and the items of tasks."""
    maps = {f: {n: change(t) for n, t in getattr(step, f).items()} for f in _MAPS}
    tasks = {task: dataclasses.replace(probe, parameters=maps["weights"]) for task, probe in step.tasks.items()}
    loss, twin = None if step.loss is None else change(step.loss), _changed_twin(step.twin, change)
    return dataclasses.replace(step, **maps, loss=loss, tasks=tasks, twin=twin)


def strided(step: Readings) -> Readings:
    """The same values in non-contiguous memory."""
    return everything(step, lambda t: t.unsqueeze(-1).expand(*t.shape, 2).clone()[..., 0])


def stacked(steps: Sequence[Readings]) -> Readings:
    """R solo steps as one step with a leading replica axis, without a probe or tasks."""
    first = steps[0]
    maps = {f: {n: torch.stack([getattr(s, f)[n] for s in steps]) for n in getattr(first, f)} for f in _MAPS}
    losses = torch.stack([s.loss for s in steps if s.loss is not None])
    twin = _stacked_twins([s.twin for s in steps if s.twin is not None])
    return dataclasses.replace(first, **maps, loss=losses, probe=None, tasks={}, twin=twin, replica_axes=1)


def without_probe(step: Readings) -> Readings:
    """The step without readings that run the network on fixed items."""
    twin = _part_of_twin(step.twin, lambda layer: True, along=False)
    return dataclasses.replace(step, probe=None, tasks={}, twin=twin)


def lacking(step: Readings, layer: str) -> Readings:
    """The step without the readings of one layer, as if its hook had not fired."""
    maps = {f: {n: t for n, t in getattr(step, f).items() if layer not in (n, layer_of(n))} for f in _MAPS}
    return dataclasses.replace(step, **maps, twin=_part_of_twin(step.twin, lambda each: each != layer, along=True))


def halves(step: Readings) -> tuple[Readings, Readings]:
    """A step in two unequal parts. Samples are divided; parameters, the loss and the probe go to one part, the items of
    tasks to both."""
    layers = {layer: i % 2 for i, layer in enumerate(dict.fromkeys(layer_of(n) for n in step.weights))}

    def part(index: int) -> Readings:
        cut = {n: len(h) // 3 for n, h in step.activations.items()}
        acts = {n: h[cut[n] :] if index else h[: cut[n]] for n, h in step.activations.items()}
        maps = {f: {n: t for n, t in getattr(step, f).items() if layers[layer_of(n)] == index} for f in _MAPS[1:]}
        rest = {} if index == 0 else {"loss": None, "probe": None}
        twin = _part_of_twin(step.twin, lambda layer: layers[layer] == index, along=index == 0)
        return dataclasses.replace(step, activations=acts, **maps, **rest, twin=twin)

    return part(0), part(1)


_MAPS = ("activations", "weights", "gradients", "updates", "initial")


def _parameters(draw: Draw, sizes: Sequence[int], dtype: torch.dtype) -> Tensors:
    names = [f"fc{i}" for i in range(1, len(sizes) - 1)] + ["head" if len(sizes) > 3 else "fc2"]
    found: Tensors = {}
    for name, before, after in zip(names, sizes[:-1], sizes[1:], strict=True):
        found[f"{name}.weight"] = (draw.normal(f"{name}.weight", torch.empty(after, before)) / before**0.5).to(dtype)
        found[f"{name}.bias"] = (0.1 * draw.normal(f"{name}.bias", torch.empty(after))).to(dtype)
    return found


def _batch(seed: int, samples: int) -> Readings:
    return dataclasses.replace(readings(seed, samples=samples), probe=small_probe(seed, samples=samples))


def _spoiled(step: Readings, value: float) -> Readings:
    """One entry of every tensor, and one probe input, replaced."""

    def spoil(t: Tensor) -> Tensor:
        flat = t.clone().flatten()
        flat[-1] = value
        return flat.reshape(t.shape)

    assert step.probe is not None
    return dataclasses.replace(
        everything(step, spoil), probe=small_probe(dtype=step.probe.inputs.dtype, inputs=spoil(step.probe.inputs))
    )


def _everywhere(step: Readings, change: Callable[[Tensor], Tensor]) -> Readings:
    """Every tensor and the probe's inputs changed."""
    assert step.probe is not None
    return dataclasses.replace(everything(step, change), probe=small_probe(inputs=change(step.probe.inputs)))
