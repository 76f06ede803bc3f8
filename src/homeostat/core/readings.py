"""A snapshot of one step: what vitals measure and treatments look at. Plain tensors, no hooks, no modules.

Leading replica axes `*R` pass through everything: a solo run has none, a fleet of R seeds has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from torch import Tensor

from homeostat.core.draw import Draw


class Reading(StrEnum):
    """What a component needs captured. The shell captures only what somebody reads."""

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
    """A fixed batch and a pure way to run the network on it, for what cannot be read off the training step.

    Args:
        parameters: name -> detached copy of each trainable parameter, [*param]. Solo only (no replica axis).
        inputs: the probe batch, [N, ...].
        targets: its targets.
        outputs: parameters -> network outputs on `inputs` [N, ...]; evaluation mode, twice differentiable.
        loss: parameters -> 0-dim loss on the probe batch; same conditions.
        draw: seeded randomness for starting vectors and fresh targets.
        learning_rate: the optimizer's current learning rate, NaN when unknown.
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
    """The network and a second one of its architecture that is trained beside it, both after as many steps.

    Args:
        own: name -> value of each trained parameter of the network [*R, *param].
        other: the same of its twin.
        along: share a of the network -> 0-dim loss, on the probe batch, of a network with all parameters and buffers at
            a * own + (1 - a) * other; None without a probe. Solo only.
    """

    own: Mapping[str, Tensor]
    other: Mapping[str, Tensor]
    along: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Readings:
    """What was captured at one step.

    Args:
        step: optimizer steps completed when the snapshot was taken.
        activations: layer -> unit outputs after the nonlinearity [*R, N, H]; convolutions are flattened so that every
            position is a sample ([N*positions, C]).
        nonlinearity: layer -> "relu", "gelu", "tanh", ... or "unknown"; says what "dead" and "saturated" mean there.
        weights: parameter name -> value [*R, *shape] before the step's update.
        gradients: parameter name -> gradient as the optimizer saw it (unscaled, after any clip), same shapes.
        updates: parameter name -> value after the step minus value before, same shapes.
        loss: what backward() was called on since the last step, summed, [*R].
        initial: parameter name -> value when the run was attached.
        probe: the probe, when the user gave one.
        twin: the network and its twin after the step, when the user gave one and it has come as far.
        tasks: task -> its fixed evaluation items as a probe, of the tasks met so far that have some, in their order.
            All share one `parameters`, those after the step.
        present: which of `tasks` is being learned; "" when that one has no evaluation items. The others are past.
        replica_axes: how many leading axes of every tensor are replica axes; tells [R, out, in] from a kernel.
    """

    step: int = 0
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    nonlinearity: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    updates: Mapping[str, Tensor] = field(default_factory=dict)
    loss: Tensor | None = None
    initial: Mapping[str, Tensor] = field(default_factory=dict)
    probe: Probe | None = None
    twin: Twin | None = None
    tasks: Mapping[str, Probe] = field(default_factory=dict)
    present: str = ""
    replica_axes: int = 0


def layer_of(parameter: str) -> str:
    """The layer a parameter belongs to: `encoder.fc1.weight` -> `encoder.fc1`; a bare `w` stays `w`."""
    return parameter.rpartition(".")[0] or parameter
