"""Edits: the only way a treatment changes anything. Edits are data; the shell applies them in one place.

A mask is boolean and broadcastable to the target [*R, *shape]; None means everywhere. Values broadcast likewise.
Nothing here touches a module or an optimizer.

Averaged copies (EMA, SWA or target networks that the user has named) follow an edit where `averaged` says so: an
element that begins anew must begin anew in the average too, or the average keeps what was just removed; what moves a
value a little is left to the average itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from homeostat.core.units import UnitGroup


@dataclass(frozen=True, eq=False)
class Edit:
    """One typed change to one target.

    Args:
        target: parameter or buffer name in the network (a module path for ReplaceModule).
    """

    target: str

    def describe(self) -> str:
        """One line for a dry run and the journal."""
        return f"{type(self).__name__} {self.target}"


def _where(mask: Tensor | None) -> str:
    if mask is None:
        return "everywhere"
    return f"where {int(mask.sum())} of {mask.numel()} mask entries are set"


@dataclass(frozen=True, eq=False)
class SetValues(Edit):
    """Overwrite a parameter (stage "after update") with `value` where `mask`.

    Args:
        units: how many units this edit resets, 0-dim on any device, on the edit of their weight rows only: the journal
            adds it up without asking the device at every step.
        averaged: whether averaged copies get the same values in the same places; None: with a mask (these elements
            begin anew), but not without (the whole tensor is moved, as by a shrinking or a projection).
    """

    value: Tensor
    mask: Tensor | None = None
    units: Tensor | None = None
    averaged: bool | None = None

    @property
    def follows(self) -> bool:
        """Whether averaged copies follow."""
        return self.mask is not None if self.averaged is None else self.averaged

    def describe(self) -> str:
        return f"set {self.target} {_where(self.mask)}"


@dataclass(frozen=True, eq=False)
class AddValues(Edit):
    """Add `value` to a parameter (stage "after update").

    Args:
        averaged: whether it is added to averaged copies too. Not noise or decay, which the average takes in by itself;
            what makes up for a reset in the same plan.
    """

    value: Tensor
    averaged: bool = False

    def describe(self) -> str:
        return f"add to {self.target}"


@dataclass(frozen=True, eq=False)
class SetBuffer(Edit):
    """Overwrite a buffer (running statistics) with `value` where `mask`.

    Args:
        averaged: whether averaged copies get the same values in the same places.
    """

    value: Tensor
    mask: Tensor | None = None
    averaged: bool = True

    def describe(self) -> str:
        return f"set buffer {self.target} {_where(self.mask)}"


@dataclass(frozen=True, eq=False)
class AddGradient(Edit):
    """Add `value` to a parameter's gradient before the optimizer reads it (stage "gradient")."""

    value: Tensor

    def describe(self) -> str:
        return f"add to the gradient of {self.target}"


@dataclass(frozen=True, eq=False)
class ClearMoments(Edit):
    """Zero the optimizer's per-element state of a parameter (momentum, first and second moments) where `mask`.

    A per-tensor step count stays as it is: it belongs to every element of the tensor. After clearing late in training,
    Adam's first update of a cleared element is therefore (1-b1)/sqrt(1-b2) = 3.2 times as long as a new element's, and
    the twelfth 6.6 times (a steady gradient, betas 0.9 and 0.999).

    Args:
        restart: also begin the step count anew. Without a mask the parameter is then as the optimizer has never stepped
            it; with a mask, counts per element must be kept (`shell.elements`).
    """

    mask: Tensor | None = None
    restart: bool = False

    def describe(self) -> str:
        also = " and begin its step count anew" if self.restart else ""
        return f"clear optimizer state of {self.target} {_where(self.mask)}{also}"


@dataclass(frozen=True, eq=False)
class ReplaceModule(Edit):
    """Put another module in the place of the one at `target` (stage "surgery"); parameters move with it.

    Args:
        make: given the module now there, returns its replacement. Parameters of the old module that the new one still
            holds keep their optimizer state; new ones join the optimizer's parameter group of the old one (or the
            first group); those that are gone leave it.
        what: one line for the journal.
    """

    make: Callable[[nn.Module], nn.Module]
    what: str = ""

    def describe(self) -> str:
        return self.what or f"replace module {self.target}"


@dataclass(frozen=True, eq=False)
class GrowUnits(Edit):
    """Append units to the layer at `target` (stage "surgery"), with everything that makes, carries and uses them.

    Longer parameters take the old ones' places in module, optimizer and parameter group. Old elements keep their values
    and optimizer state; for new ones the optimizer has seen nothing yet. With zero outgoing weights (the default) the
    network's function stays as it was. References to the old parameters held elsewhere do not follow.

    Args:
        group: where the layer's units live.
        count: how many are appended.
        values: parameter name -> values of its new slices, broadcastable to them; what is not named is 0 (1 for the
            weight of a norm). The incoming weights must be named: a unit with zeros on both sides never learns.
    """

    group: UnitGroup
    count: int
    values: Mapping[str, Tensor]

    def describe(self) -> str:
        return f"add {self.count} unit{'s' if self.count != 1 else ''} to the {self.group.width} of {self.target}"


@dataclass(frozen=True, eq=False)
class ExtendBatch(Edit):
    """Append items to the batch the user is about to learn from (stage "batch", target "batch").

    Args:
        inputs: [M, ...] like the batch's inputs.
        targets: [M, ...] like its targets.
        tasks: [M], the number of the task each comes from, where that is known.
    """

    inputs: Tensor
    targets: Tensor
    tasks: Tensor | None = None

    def describe(self) -> str:
        return f"append {len(self.inputs)} items to the batch"


@dataclass(frozen=True, eq=False)
class MaskOutputs(Edit):
    """Let the loss see `value`, without a gradient, where `mask` (stage "loss", target "outputs").

    Args:
        mask: boolean, broadcastable to the outputs.
        value: 0-dim or broadcastable.
    """

    mask: Tensor
    value: Tensor

    def describe(self) -> str:
        return f"mask outputs {_where(self.mask)}"
