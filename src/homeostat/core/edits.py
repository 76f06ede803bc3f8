"""Edits: the only changes that treatments can make. Edits are data; the shell applies them in one place.

A mask is boolean and broadcastable to the target [*R, *shape]; None means everywhere. Values are broadcast too. This
module changes no module and no optimizer.

Of a stack of R replicas, an edit may change some only: `replicas` are their indices, and `value` and `mask` have one
entry for each of them, in this order. None means all.

Averaged copies (EMA, SWA or target networks that the user has named) follow an edit if `averaged` says so. An element
that is reset must be reset in the average too, otherwise the average keeps the removed value. Small changes reach the
average by averaging.
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
        """One line for dry runs and the journal."""
        return f"{type(self).__name__} {self.target}"


def _where(mask: Tensor | None) -> str:
    if mask is None:
        return "everywhere"
    return f"where {int(mask.sum())} of {mask.numel()} mask entries are set"


@dataclass(frozen=True, eq=False)
class SetValues(Edit):
    """Overwrite a parameter (stage "after update") with `value` where `mask`.

    Args:
        units: number of units that this edit resets, 0-dim on any device; given only on the edit of their weight rows.
            The journal adds the numbers up without reading the device at every step.
        averaged: whether averaged copies get the same values in the same places. None: yes with a mask (a reset of
            these elements), no without (a change of the whole tensor, such as shrinking or a projection).
    """

    value: Tensor
    mask: Tensor | None = None
    units: Tensor | None = None
    averaged: bool | None = None
    replicas: tuple[int, ...] | None = None

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
        averaged: whether it is added to averaged copies too. False for noise or decay, which reach the average by
            averaging; True for values that compensate a reset in the same plan.
    """

    value: Tensor
    averaged: bool = False
    replicas: tuple[int, ...] | None = None

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
    replicas: tuple[int, ...] | None = None

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

    The step count of the tensor is kept, because it belongs to all elements of the tensor. After clearing late in
    training, Adam's first update of a cleared element is therefore (1-b1)/sqrt(1-b2) = 3.2 times as long as a new
    element's, and the twelfth 6.6 times (for a constant gradient and betas 0.9 and 0.999).

    Args:
        restart: also reset the step count. Without a mask the parameter is then like one that the optimizer has never
            updated. With a mask, counts per element are needed (`element_steps=True` of `attach`).
    """

    mask: Tensor | None = None
    restart: bool = False
    replicas: tuple[int, ...] | None = None

    def describe(self) -> str:
        also = " and reset its step count" if self.restart else ""
        return f"clear optimizer state of {self.target} {_where(self.mask)}{also}"


@dataclass(frozen=True, eq=False)
class ReplaceModule(Edit):
    """Replace the module at `target` (stage "modules"); its parameters move to the new one.

    Args:
        make: function from the current module to its replacement. Parameters of the old module that the new one keeps
            keep their optimizer state. New parameters join the parameter group of the old module (or the first
            group). Removed parameters leave the optimizer.
        what: one line for the journal.
    """

    make: Callable[[nn.Module], nn.Module]
    what: str = ""

    def describe(self) -> str:
        return self.what or f"replace module {self.target}"


@dataclass(frozen=True, eq=False)
class GrowUnits(Edit):
    """Append units to the layer at `target` (stage "modules"), in all weights that make, carry and use them.

    Longer parameters replace the old ones in module, optimizer and parameter group. Old elements keep their values and
    optimizer state; new elements have the state of unused ones. With zero outgoing weights (the default) the network's
    function does not change. References to the old parameters elsewhere are not updated.

    Args:
        group: the unit group of the layer.
        count: number of new units.
        values: parameter name -> values of its new slices, broadcastable to them. Default: 0, and 1 for the weight of a
            norm. Incoming weights must be given: a unit with zero weights on both sides never learns.
    """

    group: UnitGroup
    count: int
    values: Mapping[str, Tensor]

    def describe(self) -> str:
        return f"add {self.count} unit{'s' if self.count != 1 else ''} to the {self.group.width} of {self.target}"


@dataclass(frozen=True, eq=False)
class ExtendBatch(Edit):
    """Append items to the batch before the user trains on it (stage "batch", target "batch").

    Args:
        inputs: [M, ...] like the batch's inputs.
        targets: [M, ...] like its targets.
        tasks: [M], the number of the task of each item, if known.
    """

    inputs: Tensor
    targets: Tensor
    tasks: Tensor | None = None

    def describe(self) -> str:
        return f"append {len(self.inputs)} items to the batch"


@dataclass(frozen=True, eq=False)
class MaskOutputs(Edit):
    """Replace outputs by `value`, without gradient, where `mask`, before the loss (stage "loss", target "outputs").

    Args:
        mask: boolean, broadcastable to the outputs.
        value: 0-dim or broadcastable.
    """

    mask: Tensor
    value: Tensor

    def describe(self) -> str:
        return f"mask outputs {_where(self.mask)}"
