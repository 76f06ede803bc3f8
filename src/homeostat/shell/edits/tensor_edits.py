"""Edits of values: parameters, buffers, gradients and optimizer state, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from homeostat.core.edits import AddGradient, AddValues, ClearMoments, SetBuffer, SetValues
from homeostat.core.errors import BadInput
from homeostat.shell.edits.handler import apply, check
from homeostat.shell.edits.optimizer_state import restart
from homeostat.shell.edits.targets import EditTargets
from homeostat.shell.edits.undo_log import UndoLog


@check.register
def _(edit: SetValues, network: EditTargets) -> None:
    _check(edit, network.parameter(edit.target), edit.mask, edit.follows, network)


@apply.register
def _(edit: SetValues, network: EditTargets, undo: UndoLog) -> None:
    _overwrite(edit, network.parameter(edit.target), edit.follows, network, undo)


@check.register
def _(edit: SetBuffer, network: EditTargets) -> None:
    _check(edit, network.buffer(edit.target), edit.mask, edit.averaged, network)


@apply.register
def _(edit: SetBuffer, network: EditTargets, undo: UndoLog) -> None:
    _overwrite(edit, network.buffer(edit.target), edit.averaged, network, undo)


@check.register
def _(edit: AddValues, network: EditTargets) -> None:
    _check(edit, network.parameter(edit.target), None, edit.averaged, network)


@apply.register
def _(edit: AddValues, network: EditTargets, undo: UndoLog) -> None:
    for tensor in network.with_copies(edit.target, network.parameter(edit.target), edit.averaged):
        undo.save(tensor, additive=True)
        tensor.detach().add_(edit.value.detach().to(tensor))


@check.register
def _(edit: AddGradient, network: EditTargets) -> None:
    parameter = network.parameter(edit.target)
    _check(edit, parameter, None, False, network)
    network.check_dense(edit.target, parameter)


@apply.register
def _(edit: AddGradient, network: EditTargets, undo: UndoLog) -> None:
    target = network.parameter(edit.target)
    if target.grad is None:
        undo.push(lambda: setattr(target, "grad", None))
        target.grad = torch.zeros_like(target)
    else:
        undo.save(target.grad, additive=True)
    value = edit.value.detach().to(target.grad)
    if network.grad_scale is not None:
        value = value * network.grad_scale.to(value)
    target.grad.detach().add_(value)


@check.register
def _(edit: ClearMoments, network: EditTargets) -> None:
    parameter = network.parameter(edit.target)
    network.check_fits(edit.target, parameter, None, edit.mask)
    if edit.restart and edit.mask is not None:
        if network.elements is None:
            why = f"the step count of {edit.target} belongs to all of it"
            raise BadInput(f"{network.component}: {why}: no mask with restart unless counts are kept per element")
        network.elements.counted(edit.target, network.holders.of(parameter), network.component)
    network.moments(edit.target)


@apply.register
def _(edit: ClearMoments, network: EditTargets, undo: UndoLog) -> None:
    for state, fill in network.moments(edit.target):
        undo.save(state)
        if edit.mask is None:
            state.detach().fill_(fill)
        else:
            state.detach().masked_fill_(edit.mask.to(state.device), fill)
    parameter = network.parameter(edit.target)
    if edit.restart and edit.mask is not None:
        network.restart_elements(edit.target, parameter, parameter, edit.mask, undo)
    elif edit.restart:
        for holder in network.holders.of(parameter):
            restart(parameter, holder, undo)
        network.look_again()


def _check(
    edit: SetValues | SetBuffer | AddValues | AddGradient,
    target: Tensor,
    mask: Tensor | None,
    follows: bool,
    network: EditTargets,
) -> None:
    network.check_fits(edit.target, target, edit.value, mask)
    network.with_copies(edit.target, target, follows)


def _overwrite(edit: SetValues | SetBuffer, target: Tensor, follows: bool, network: EditTargets, undo: UndoLog) -> None:
    for tensor in network.with_copies(edit.target, target, follows):
        undo.save(tensor)
        value, present = edit.value.detach().to(tensor), tensor.detach()
        present.copy_(value if edit.mask is None else torch.where(edit.mask.to(tensor.device), value, present))
