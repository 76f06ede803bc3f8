"""The contract of a treatment: an intervention on training, planned as edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from homeostat.core.component import Component
from homeostat.core.draw import Draw
from homeostat.core.edits import Edit
from homeostat.core.readings import Reading
from homeostat.core.units import UnitGroup

State = dict[str, Tensor]
"""What a treatment remembers between steps: flat, tensors only, so it can be saved, compared and batched."""


class Stage(StrEnum):
    """When in a step a treatment acts."""

    SURGERY = "surgery"
    BATCH = "batch"
    LOSS = "loss"
    GRADIENT = "gradient"
    UPDATE = "after update"
    BOUNDARY = "boundary"
    EVALUATION = "evaluation"


@dataclass(frozen=True)
class Fresh:
    """How a parameter was (or would be) drawn when its module was made.

    Args:
        kind: "uniform" (on [-scale, scale]), "normal" (standard deviation scale) or "constant" (equal to `mean`).
        scale: half-width or standard deviation.
        mean: centre of the distribution.
    """

    kind: str
    scale: float = 0.0
    mean: float = 0.0

    def sample(self, draw: Draw, key: str, like: Tensor) -> Tensor:
        """Fresh values with the shape, dtype and device of `like`."""
        if self.kind == "uniform":
            return self.mean + (2 * draw.uniform(key, like) - 1) * self.scale
        if self.kind == "normal":
            return self.mean + draw.normal(key, like) * self.scale
        return torch.full_like(like, self.mean)


@dataclass(frozen=True)
class View:
    """What a treatment may look at when it plans. Read-only by contract: a plan that writes to it breaks a law.

    Args:
        step: optimizer steps completed (at stage "gradient": before the one about to happen).
        parameters: name -> current value [*R, *shape], trainable ones only, detached.
        buffers: name -> current value.
        gradients: name -> gradient, for stage "gradient" (unscaled) and "after update" (as last used); absent if None.
        before: name -> value before this step's update, at stage "after update" when the treatment reads UPDATES.
        initial: name -> value at attachment, when the treatment reads INITIAL.
        units: the verified unit groups of the network.
        activations: layer of a unit group -> its units' outputs [*R, N, H] in the last forward passes of this step.
        fresh: parameter name -> its initial distribution.
        norms: names of the parameters that belong to normalisation layers.
        draw: seeded randomness, already at (component, step), and at the micro-batch's number at stages "batch" and
            "loss".
        learning_rate: of the first parameter group.
        task: boundaries seen so far: 0 before the first.
        inputs: at stage "batch": the user's batch [N, ...].
        targets: at stages "batch" and "loss": its targets [N, ...].
        outputs: at stage "loss": what the network gave for the batch [N, ...], detached.
        kinds: at stage "surgery": path -> class of every module.
    """

    step: int
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    before: Mapping[str, Tensor] = field(default_factory=dict)
    initial: Mapping[str, Tensor] = field(default_factory=dict)
    units: tuple[UnitGroup, ...] = ()
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    fresh: Mapping[str, Fresh] = field(default_factory=dict)
    norms: frozenset[str] = frozenset()
    draw: Draw = field(default_factory=Draw)
    learning_rate: float = float("nan")
    task: int = 0
    inputs: Tensor | None = None
    targets: Tensor | None = None
    outputs: Tensor | None = None
    kinds: Mapping[str, type[nn.Module]] = field(default_factory=dict)

    def weights(self) -> dict[str, Tensor]:
        """Weight matrices and kernels: parameters of at least two dimensions that do not belong to a norm.

        With replica axes the count of dimensions is that of the solo parameter.
        """
        lead = 0 if isinstance(self.draw.seed, int) else 1
        return {n: p for n, p in self.parameters.items() if p.ndim - lead >= 2 and n not in self.norms}


@dataclass(frozen=True, kw_only=True)
class Treatment(Component, abstract=True):
    """An intervention. `plan` is pure: it looks at a view and returns edits; the shell applies them.

    Class attributes:
        stage: when it acts.
        reads: readings it needs (ACTIVATIONS, GRADIENTS, INITIAL, ...). Activations are captured only on steps that
            `due` names. One that reads UPDATES acts before the others of its stage: it puts another update in the
            place of the optimizer's, and theirs build on it.
        needs_units: it works on unit groups, and refuses a network that has none.
        needs_batch_norm: it works on layers of batch normalisation, and refuses a network that has none.
        lines: stages whose lines in the user's loop it makes use of beside its own stage; without one of them a part of
            it does not act, which is said at the end.
        after: names of treatments that must have acted before it at the same stage.
        optimizer_state: one sentence on what happens to the optimizer's state ("cleared for reset units", "untouched").
        trial: settings under which the laws see it act within a few dozen steps, where its defaults act seldom.
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
        """Whether it looks at the network on this step (first step: 1). Fixed in steps, never in time."""
        return True

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        """State before the first step."""
        return {}

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        """Edits for this step, and the next state. Pure; called on due steps only.

        Raises:
            Refused: the network cannot be treated correctly; nothing has been changed.
        """
        raise NotImplementedError

    def follow(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> State:
        """What a treatment of stage "evaluation" takes from every completed step it is due on. Pure."""
        return state

    def effect(self, before: View, edits: Sequence[Edit], after: View) -> str | None:
        """What it promises, checked after the step: None when kept, else a sentence. Used by the law "effect"."""
        return None
