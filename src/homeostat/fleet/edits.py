"""Apply edits to stacked parameters, gradients, buffers and optimizer state.

An edit with a value that is not finite in some replicas leaves these replicas as they are: a solo run would end the
treatment there, and the other replicas must not be touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from homeostat.core.edits import AddGradient, AddValues, ClearMoments, Edit, MaskOutputs, SetBuffer, SetValues
from homeostat.core.errors import BadInput, Refused, UnknownName
from homeostat.fleet.optimizers import StackedOptimizer


@dataclass(eq=False)
class StackedTargets:
    """What edits change.

    Args:
        parameters, buffers, gradients: name -> tensor [R, ...].
        optimizers: those that hold the parameters.
        outputs: of the network, at stage "loss".
    """

    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    optimizers: Sequence[StackedOptimizer] = ()
    gradients: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    outputs: Tensor | None = None

    def optimizer_of(self, name: str) -> StackedOptimizer:
        return next(one for one in self.optimizers if name in one.parameters)


def apply_stacked(
    edits: Sequence[Edit], targets: StackedTargets, component: str, undoable: bool = False
) -> Callable[[], None]:
    """Apply edits in order.

    Args:
        component: name of the treatment, for error messages.
        undoable: keep copies of what is overwritten.

    Returns:
        A function that restores what was overwritten, if `undoable`.

    Raises:
        Refused: an edit that has no stacked form.
        UnknownName: a target does not exist.
    """
    undo: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for edit in edits:
            _apply(edit, targets, component, undo if undoable else None)

    def restore() -> None:
        with torch.no_grad():
            for tensor, value in reversed(undo):
                tensor.copy_(value)

    return restore


def _apply(edit: Edit, targets: StackedTargets, component: str, undo: list[tuple[Tensor, Tensor]] | None) -> None:
    match edit:
        case SetValues() | SetBuffer():
            table = targets.parameters if isinstance(edit, SetValues) else targets.buffers
            whole = _named(table, edit.target).detach()
            if undo is not None:
                undo.append((whole, whole.clone()))
            for target, value, mask in _parts(whole, edit.value, edit.mask, edit.replicas):
                target.copy_(value if mask is None else torch.where(mask, value, target))
        case AddValues():
            whole = _named(targets.parameters, edit.target).detach()
            for target, value, mask in _parts(whole, edit.value, None, edit.replicas):
                target.add_(value if mask is None else torch.where(mask, value, 0.0))
        case AddGradient():
            whole = _named(targets.parameters, edit.target)
            if edit.target not in targets.gradients:
                targets.gradients[edit.target] = torch.zeros_like(whole)
            for target, value, mask in _parts(targets.gradients[edit.target], edit.value, None, None):
                target.add_(value if mask is None else torch.where(mask, value, 0.0))
        case ClearMoments():
            _clear(edit, targets, component)
        case MaskOutputs():
            if targets.outputs is None:
                raise BadInput(f"{component}: there are no outputs to mask")
            with torch.enable_grad():
                targets.outputs = torch.where(edit.mask, edit.value.to(targets.outputs.dtype), targets.outputs)
        case _:
            raise Refused(component, edit.target, f"{type(edit).__name__} has no form for stacked replicas")


def _clear(edit: ClearMoments, targets: StackedTargets, component: str) -> None:
    _named(targets.parameters, edit.target)
    optimizer = targets.optimizer_of(edit.target)
    for state in optimizer.moments(edit.target):
        for part, mask in _selected(state, edit.mask, edit.replicas):
            part.zero_() if mask is None else part.masked_fill_(mask, 0.0)
    if edit.restart:
        if edit.mask is not None:
            raise Refused(component, edit.target, "step counts are not kept per element in a fleet")
        optimizer.restart(edit.target)


def _named(table: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in table:
        raise UnknownName("parameter or buffer", name, table)
    return table[name]


def _selected(whole: Tensor, mask: Tensor | None, replicas: Sequence[int] | None) -> list[tuple[Tensor, Tensor | None]]:
    """The parts of a stacked tensor that an edit is for, each with its mask."""
    if replicas is None:
        return [(whole, mask)]
    return [(whole[r], None if mask is None else mask[i]) for i, r in enumerate(replicas)]


def _parts(
    whole: Tensor, value: Tensor, mask: Tensor | None, replicas: Sequence[int] | None
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """(target, value, mask) of the parts of a stacked tensor that an edit is for, without non-finite replicas."""
    value = value.detach().to(whole.dtype)
    if replicas is not None:
        finite = [bool(torch.isfinite(value[i].sum())) for i in range(len(replicas))]
        return [(whole[r], value[i], None if mask is None else mask[i]) for i, r in enumerate(replicas) if finite[i]]
    if not bool(torch.isfinite(value.sum())):
        broad = value.expand(whole.shape)
        sane = torch.isfinite(broad).flatten(1).all(1).reshape(-1, *(1,) * (whole.ndim - 1))
        mask = sane.expand(whole.shape) if mask is None else sane & mask
        value = torch.where(sane, broad, 0.0)
    return [(whole, value, mask)]
