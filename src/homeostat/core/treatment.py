"""The contract of a treatment: an intervention on training, planned as edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from homeostat.core.component import Component, integer
from homeostat.core.edits import Edit
from homeostat.core.random import Draw
from homeostat.core.snapshot import Reading
from homeostat.core.units import UnitGroup

State = dict[str, Tensor]
"""State of a treatment between steps: a flat dictionary of tensors, so it can be saved, compared and batched."""


class Stage(StrEnum):
    """The point of a step at which a treatment acts."""

    MODULES = "modules"
    BATCH = "batch"
    LOSS = "loss"
    GRADIENT = "gradient"
    UPDATE = "after update"
    BOUNDARY = "boundary"
    EVALUATION = "evaluation"


@dataclass(frozen=True)
class Fresh:
    """The initial distribution of a parameter.

    Args:
        kind: "uniform" (on [-scale, scale]), "normal" (standard deviation scale) or "constant" (equal to `mean`).
        scale: half-width or standard deviation.
        mean: centre of the distribution.
    """

    kind: str
    scale: float = 0.0
    mean: float = 0.0

    def sample(self, draw: Draw, key: str, like: Tensor) -> Tensor:
        """Random values with the shape, dtype and device of `like`."""
        if self.kind == "uniform":
            return self.mean + (2 * draw.uniform(key, like) - 1) * self.scale
        if self.kind == "normal":
            return self.mean + draw.normal(key, like) * self.scale
        return torch.full_like(like, self.mean)


@dataclass(frozen=True)
class View:
    """The input of a plan. Read-only: a plan that writes to it breaks a law.

    Args:
        step: completed optimizer steps (at stage "gradient" without the step that follows).
        parameters: name -> current value [*R, *shape], trainable ones only, detached.
        buffers: name -> current value.
        gradients: name -> gradient, at stages "gradient" (unscaled) and "after update" (as last used); absent if None.
        before: name -> value before this step's update, at stage "after update" if the treatment reads UPDATES.
        initial: name -> value at `attach`, if the treatment reads INITIAL.
        units: the verified unit groups of the network.
        activations: layer of a unit group -> its units' outputs [*R, N, H] in the last forward passes of this step.
        fresh: parameter name -> its initial distribution.
        norms: names of the parameters that belong to normalisation layers.
        draw: seeded randomness for (component, step), at stages "batch" and "loss" also for the micro-batch.
        learning_rate: of the first parameter group.
        task: number of boundaries so far.
        inputs: at stage "batch": the user's batch [N, ...].
        targets: at stages "batch" and "loss": its targets [N, ...].
        outputs: at stage "loss": the network's outputs for the batch [N, ...], detached.
        kinds: at stage "modules": path -> class of every module.
    """

    step: int
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    gradients: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    before: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    initial: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    units: tuple[UnitGroup, ...] = ()
    activations: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    fresh: Mapping[str, Fresh] = field(default_factory=dict[str, Fresh])
    norms: frozenset[str] = frozenset()
    draw: Draw = field(default_factory=Draw)
    learning_rate: float = float("nan")
    task: int = 0
    inputs: Tensor | None = None
    targets: Tensor | None = None
    outputs: Tensor | None = None
    kinds: Mapping[str, type[nn.Module]] = field(default_factory=dict[str, type[nn.Module]])

    def weights(self) -> dict[str, Tensor]:
        """Weight matrices and kernels: parameters of at least two dimensions that do not belong to a norm.

        Replica axes are not counted.
        """
        return {name: value for name, value in self.parameters.items() if self.is_weight(name)}

    def is_weight(self, name: str) -> bool:
        """Whether a parameter is one of `weights`."""
        lead = 0 if isinstance(self.draw.seed, int) else 1
        return self.parameters[name].ndim - lead >= 2 and name not in self.norms


@dataclass(frozen=True, kw_only=True)
class Treatment(Component, abstract=True):
    """An intervention. `plan` is pure: it reads a view and returns edits, which the shell applies.

    Class attributes:
        stage: when it acts.
        reads: readings it needs (ACTIVATIONS, GRADIENTS, INITIAL, ...). Activations are captured only on due steps. A
            treatment that reads UPDATES replaces the optimizer's update, so it acts before the others of its stage.
        needs_units: it works on unit groups, and refuses a network without them.
        needs_batch_norm: it works on batch normalisation, and refuses a network without it.
        lines: further stages that it uses, which lines in the user's loop open. Without one of them a part of it does
            not act, which is reported at the end.
        after: names of treatments that act before it at the same stage.
        optimizer_state: one sentence on what happens to the optimizer's state ("cleared for reset units", "untouched").
        trial: settings for the laws, with which it acts within a few dozen steps, if its defaults act rarely.
    """

    kind: ClassVar[str] = "treatment"
    stage: ClassVar[Stage]
    reads: ClassVar[frozenset[Reading]] = frozenset()
    needs_units: ClassVar[bool] = False
    needs_batch_norm: ClassVar[bool] = False
    lines: ClassVar[tuple[Stage, ...]] = ()
    after: ClassVar[tuple[str, ...]] = ()
    optimizer_state: ClassVar[str] = "untouched"
    trial: ClassVar[Mapping[str, Any]] = {}

    def due(self, step: int) -> bool:
        """Whether it acts at this step (first step: 1). Depends on the step only, never on time."""
        return True

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        """State before the first step."""
        return {}

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        """Edits for this step, and the next state. Pure; called on due steps only.

        Raises:
            Refused: the network cannot be treated correctly; nothing is changed.
        """
        raise NotImplementedError

    def follow(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> State:
        """The next state of a treatment of stage "evaluation" after every due step. Pure."""
        return state

    def effect(self, before: View, edits: Sequence[Edit], after: View) -> str | None:
        """Check the promised effect after the step: None if it holds, else a sentence. Used by the law "effect"."""
        return None


@dataclass(frozen=True, kw_only=True)
class Periodic(Treatment, abstract=True):
    """A treatment that acts every `every` steps.

    Settings:
        every: optimizer steps from one application to the next.
    """

    every: int = integer(1000, unit="steps")

    def due(self, step: int) -> bool:
        return step % self.every == 0
