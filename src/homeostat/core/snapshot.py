"""A snapshot of one step, which vitals and treatments read: plain tensors, no hooks, no modules.

Replica axes `*R` come first everywhere: a single run has none, a fleet of R seeds has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from torch import Tensor

from homeostat.core.random import Draw


class Reading(StrEnum):
    """A kind of reading. The shell captures only the readings that a component needs."""

    ACTIVATIONS = "activations"
    WEIGHTS = "weights"
    GRADIENTS = "gradients"
    UPDATES = "updates"
    LOSS = "loss"
    PROBE = "probe"
    INITIAL = "initial"
    TWIN = "twin"
    TASKS = "tasks"


@dataclass(frozen=True)
class Probe:
    """A fixed batch and pure functions that run the network on it, for what a training step does not show.

    Args:
        parameters: name -> detached copy of each trainable parameter, [*param]. Single runs only (no replica axis).
        inputs: the probe batch, [N, ...].
        targets: its targets.
        outputs: parameters -> network outputs on `inputs` [N, ...]; evaluation mode, twice differentiable.
        loss: parameters -> 0-dim loss on the probe batch; same conditions.
        draw: seeded randomness for initial vectors and random targets.
        learning_rate: the optimizer's current learning rate, NaN if unknown.
        optimizer: class name of the user's optimizer, e.g. "Adam".
    """

    parameters: Mapping[str, Tensor]
    inputs: Tensor
    targets: Tensor
    outputs: Callable[[Mapping[str, Tensor]], Tensor]
    loss: Callable[[Mapping[str, Tensor]], Tensor]
    draw: Draw
    learning_rate: float = float("nan")
    optimizer: str = ""


@dataclass(frozen=True)
class Twin:
    """The network and its twin, a second network of the same architecture, after the same number of steps.

    Args:
        own: name -> value of each trained parameter of the network [*R, *param].
        other: the same of its twin.
        along: share a of the network -> 0-dim loss, on the probe batch, of a network with all parameters and buffers at
            a * own + (1 - a) * other; None without a probe. Single runs only.
    """

    own: Mapping[str, Tensor]
    other: Mapping[str, Tensor]
    along: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Readings:
    """The readings of one step.

    Args:
        step: completed optimizer steps.
        activations: layer -> unit outputs after the nonlinearity [*R, N, H]; convolutions are flattened so that every
            position is a sample ([N*positions, C]).
        nonlinearity: layer -> "relu", "gelu", "tanh", ... or "unknown"; it defines "dead" and "saturated" units.
        weights: parameter name -> value [*R, *shape] before the step's update.
        gradients: parameter name -> gradient as the optimizer received it (unscaled, after clipping), same shapes.
        updates: parameter name -> value after the step minus value before, same shapes.
        loss: sum of the losses on which backward() was called since the last step, [*R].
        initial: parameter name -> value at `attach`.
        probe: the probe, if the user gave one.
        twin: the network and its twin after the step, if the user gave one and it has reached this step.
        tasks: task -> its fixed evaluation items as a probe, for the tasks so far that have some, in order. All share
            one `parameters`, those after the step.
        present: the current one of `tasks`; "" if it has no evaluation items. The others are past.
        replica_axes: number of leading replica axes of every tensor; distinguishes [R, out, in] from a kernel.
    """

    step: int = 0
    activations: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    nonlinearity: Mapping[str, str] = field(default_factory=dict[str, str])
    weights: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    gradients: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    updates: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    loss: Tensor | None = None
    initial: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    probe: Probe | None = None
    twin: Twin | None = None
    tasks: Mapping[str, Probe] = field(default_factory=dict[str, Probe])
    present: str = ""
    replica_axes: int = 0


def layer_of(parameter: str) -> str:
    """The layer a parameter belongs to: `encoder.fc1.weight` -> `encoder.fc1`; a bare `w` stays `w`."""
    return parameter.rpartition(".")[0] or parameter
