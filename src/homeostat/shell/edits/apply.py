"""Apply edits to a network: the one place that changes parameters, gradients, buffers, modules and optimizer state.

Treatments plan edits (`core.edits`). `apply_edits` checks all of them first, then applies them in place and in order,
all or none. Parameters keep their identity, dtype, device and memory format, so optimizers, DDP and the user's own
references stay valid. Only `ReplaceModule` and `GrowUnits` put new objects in.

Averaged copies that the user has named follow:

    SetValues      with a mask: the same values in the same places; without: not (see the edit's `averaged`)
    SetBuffer      the same values in the same places
    AddValues      not, unless the edit says so
    AddGradient, ClearMoments    a copy has neither gradients nor an optimizer
    ReplaceModule  the copy's module is replaced too; tensors that are new get the network's values
    GrowUnits      the copy grows too; new slices get the network's values, old ones stay averages
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from homeostat.core.edits import Edit
from homeostat.shell.edits import grow_units, replace_module, tensor_edits
from homeostat.shell.edits.averaged_copies import Averaged
from homeostat.shell.edits.element_steps import ElementSteps
from homeostat.shell.edits.handler import apply, check
from homeostat.shell.edits.targets import EditTargets
from homeostat.shell.edits.undo_log import UndoLog

HANDLED_IN = (tensor_edits, replace_module, grow_units)
"""Importing these modules registers their edits."""


def apply_edits(
    edits: Sequence[Edit],
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    *,
    grad_scale: Tensor | None = None,
    undoable: bool = True,
    component: str = "edits",
    averaged: Sequence[Averaged] = (),
    elements: ElementSteps | None = None,
) -> UndoLog:
    """Apply all edits to a network, or none.

    Args:
        edits: in the order in which they act.
        model: targets are names of its parameters, buffers or modules.
        optimizers: all that train it.
        grad_scale: the loss scale that gradients still carry (fused optimizer under GradScaler); `AddGradient` values
            are multiplied by it.
        undoable: keep copies so that additions can be undone too. Every-step penalties set it False to save a pass
            over memory; everything else can be undone either way.
        component: name of the treatment, for error messages.
        averaged: copies that follow, from `averaged_copies`.
        elements: keeps step counts per element, for `ClearMoments` with a mask and `restart`.

    Returns:
        What undoes the edits: it restores every touched tensor, module and optimizer state as a whole, so call its
        `undo` right after them; later training of a touched tensor is lost too.

    Raises:
        UnknownName: a target does not exist; the nearest are suggested.
        BadInput: a value or mask does not broadcast to its target, is of the wrong kind or is not finite.
        Refused: the target cannot be edited correctly (not trained by a given optimizer, frozen, sharded, sparse
            gradient, optimizer state of unknown meaning, an averaged copy of another shape). In every case nothing was
            changed.
    """
    network = EditTargets(model, optimizers, component, grad_scale, averaged, elements)
    for edit in edits:
        check(edit, network)
    network.check_finite()
    undo = UndoLog(undoable)
    try:
        with torch.no_grad():
            for edit in edits:
                apply(edit, network, undo)
    except BaseException:
        undo.undo()
        raise
    return undo
