"""The one place that changes parameters, gradients, buffers, modules and optimizer state.

Treatments plan edits (`core.edits`); `apply` checks all of them first, then carries them out in place, in order, all or
nothing. Parameters keep their identity, dtype, device and memory format, so optimizers, DDP and the user's own
references stay valid. Only `ReplaceModule` puts new objects in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from homeostat.core.edits import AddGradient, AddValues, ClearMoments, Edit, ReplaceModule, SetBuffer, SetValues
from homeostat.core.errors import BadInput, Refused, UnknownName
from homeostat.core.finding import JournalEntry
from homeostat.shell.optimizers import Holders, moments
from homeostat.shell.replace import check_replace, replace_module


class Ledger:
    """How to take back what was done, newest first."""

    def __init__(self, undoable: bool = True) -> None:
        self.undoable = undoable
        self._back: list[Callable[[], object]] = []

    def push(self, back: Callable[[], object]) -> None:
        """Remember one way back."""
        self._back.append(back)

    def keep(self, tensor: Tensor, additive: bool = False) -> None:
        """Remember a tensor's values before they change. Additions are not remembered when not undoable."""
        if self.undoable or not additive:
            old = tensor.detach().clone(memory_format=torch.preserve_format)
            self.push(lambda: tensor.detach().copy_(old))

    def roll_back(self) -> None:
        """Take everything back; a second call does nothing."""
        with torch.no_grad():
            while self._back:
                self._back.pop()()


class Receipt:
    """What was done: journal lines, and the way back.

    Attributes:
        edits: the edits as applied.
    """

    def __init__(self, edits: Sequence[Edit], ledger: Ledger) -> None:
        self.edits, self._ledger = tuple(edits), ledger

    def describe(self) -> list[str]:
        """One line per edit, as a dry run prints them."""
        return describe(self.edits)

    def entries(self, step: int, component: str, why: str = "") -> list[JournalEntry]:
        """One journal entry per edit."""
        return [JournalEntry(step, component, "edit", e.target, why, detail={"did": e.describe()}) for e in self.edits]

    def undo(self) -> None:
        """Put every touched tensor, module and optimizer state back as it was, whole tensors at a time.

        Meant for right after the edit: training done in between on a touched tensor is lost too. Additions applied
        with `undoable=False` stay. A second call does nothing.
        """
        self._ledger.roll_back()


def describe(edits: Sequence[Edit]) -> list[str]:
    """What edits would do, one line each; nothing is applied (dry run)."""
    return [edit.describe() for edit in edits]


def apply(
    edits: Sequence[Edit],
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    *,
    grad_scale: Tensor | None = None,
    undoable: bool = True,
    component: str = "surgery",
) -> Receipt:
    """Carry out edits on a network: all of them, or none.

    Args:
        edits: in the order in which they act.
        model: targets are names of its parameters, buffers or modules.
        optimizers: all that train it.
        grad_scale: the loss scale that gradients still carry (fused optimizer under GradScaler); `AddGradient` values
            are multiplied by it.
        undoable: keep copies so that additions can be undone too. Every-step penalties set it False to save a pass
            over memory; everything else can be undone either way.
        component: who asks, for refusals.

    Returns:
        A receipt for the journal.

    Raises:
        UnknownName: a target does not exist; the nearest are suggested.
        BadInput: a value or mask does not broadcast to its target, is of the wrong kind or is not finite.
        Refused: the target cannot be edited correctly (not trained by a given optimizer, frozen, sharded, sparse
            gradient, optimizer state of unknown meaning). In every case nothing was changed.
    """
    network = Operand(model, optimizers, grad_scale, component)
    for edit in edits:
        if type(edit) not in _CHECK:
            raise BadInput(f"{component}: no surgery for edits of type {type(edit).__name__}")
        _CHECK[type(edit)](edit, network)
    network.check_finite()
    ledger = Ledger(undoable)
    try:
        with torch.no_grad():
            for edit in edits:
                _APPLY[type(edit)](edit, network, ledger)
    except BaseException:
        ledger.roll_back()
        raise
    return Receipt(edits, ledger)


class Operand:
    """A network on the table: targets looked up by name, values checked and cast to them."""

    def __init__(
        self, model: nn.Module, optimizers: Sequence[Optimizer], grad_scale: Tensor | None, component: str
    ) -> None:
        self.model, self.optimizers, self.grad_scale, self.component = model, optimizers, grad_scale, component
        self.holders = Holders(optimizers)
        self._finite: list[tuple[str, Tensor]] = []

    def parameter(self, name: str) -> nn.Parameter:
        """A parameter that an optimizer trains.

        Raises:
            UnknownName, Refused: see `apply`.
        """
        found = _lookup(self.model, name, "_parameters")
        if found is None:
            raise UnknownName("parameter", name, (n for n, _ in self.model.named_parameters(remove_duplicate=False)))
        self._plain(name, found)
        if not found.requires_grad:
            raise Refused(self.component, name, "it is frozen (requires_grad is False)")
        if not self.holders.of(found):
            raise Refused(self.component, name, "no attached optimizer trains it")
        return found

    def buffer(self, name: str) -> Tensor:
        """A buffer by name; raises UnknownName or Refused as `parameter`."""
        found = _lookup(self.model, name, "_buffers")
        if found is None:
            raise UnknownName("buffer", name, (n for n, _ in self.model.named_buffers(remove_duplicate=False)))
        self._plain(name, found)
        return found

    def _plain(self, name: str, tensor: Tensor) -> None:
        if is_traceable_wrapper_subclass(tensor):
            raise Refused(self.component, name, f"it is a {type(tensor).__name__} (sharded or wrapped tensor)")
        if tensor.is_meta or is_lazy(tensor):
            raise Refused(self.component, name, "it has no values yet (meta device or lazy module)")

    def check_fits(self, name: str, target: Tensor, value: Tensor | None, mask: Tensor | None = None) -> None:
        """Value and mask broadcast to the target; a finiteness check of the value is queued."""
        for what, tensor in (("value", value), ("mask", mask)):
            if tensor is None:
                continue
            if not isinstance(tensor, Tensor):
                raise BadInput(f"{self.component}: {what} for {name} must be a tensor, got {type(tensor).__name__}")
            if not _broadcasts(tensor, target):
                raise BadInput(
                    f"{self.component}: {what} of shape {list(tensor.shape)} does not broadcast to {name} "
                    f"{list(target.shape)}"
                )
        if mask is not None and mask.dtype != torch.bool:
            raise BadInput(f"{self.component}: mask for {name} must be boolean, got {mask.dtype}")
        if value is not None:
            self._finite.append((name, value.detach().to(target.dtype)))

    def check_finite(self) -> None:
        """One transfer for all queued values: a finite sum proves them finite, else look closely.

        Raises:
            BadInput: a value is NaN or infinite.
        """
        sums = [value.sum().to("cpu", torch.float64) for _, value in self._finite]
        if not sums or bool(torch.isfinite(torch.stack(sums)).all()):
            return
        for name, value in self._finite:
            if not bool(torch.isfinite(value).all()):
                raise BadInput(f"{self.component}: values for {name} are not finite")


def _lookup(model: nn.Module, name: str, table: str) -> Any:
    *path, leaf = name.split(".")
    module: nn.Module | None = model
    for part in path:
        module = module._modules.get(part) if module is not None else None
    return getattr(module, table).get(leaf) if module is not None else None


def _broadcasts(value: Tensor, target: Tensor) -> bool:
    try:
        return torch.broadcast_shapes(value.shape, target.shape) == target.shape
    except RuntimeError:
        return False


def _check_set(edit: SetValues, network: Operand) -> None:
    network.check_fits(edit.target, network.parameter(edit.target), edit.value, edit.mask)


def _check_add(edit: AddValues, network: Operand) -> None:
    network.check_fits(edit.target, network.parameter(edit.target), edit.value)


def _check_buffer(edit: SetBuffer, network: Operand) -> None:
    network.check_fits(edit.target, network.buffer(edit.target), edit.value, edit.mask)


def _check_gradient(edit: AddGradient, network: Operand) -> None:
    parameter = network.parameter(edit.target)
    network.check_fits(edit.target, parameter, edit.value)
    if parameter.grad is not None and parameter.grad.layout != torch.strided:
        raise Refused(network.component, edit.target, "its gradient is sparse")


def _check_clear(edit: ClearMoments, network: Operand) -> None:
    parameter = network.parameter(edit.target)
    network.check_fits(edit.target, parameter, None, edit.mask)
    for holder in network.holders.of(parameter):
        moments(parameter, holder, component=network.component, name=edit.target)


def _check_replace(edit: ReplaceModule, network: Operand) -> None:
    check_replace(edit.target, network.model, network.component)


def _overwrite(target: Tensor, value: Tensor, mask: Tensor | None, ledger: Ledger) -> None:
    ledger.keep(target)
    value = value.detach().to(target)
    target.detach().copy_(value if mask is None else torch.where(mask.to(target.device), value, target.detach()))


def _set_values(edit: SetValues, network: Operand, ledger: Ledger) -> None:
    _overwrite(network.parameter(edit.target), edit.value, edit.mask, ledger)


def _set_buffer(edit: SetBuffer, network: Operand, ledger: Ledger) -> None:
    _overwrite(network.buffer(edit.target), edit.value, edit.mask, ledger)


def _add_values(edit: AddValues, network: Operand, ledger: Ledger) -> None:
    target = network.parameter(edit.target)
    ledger.keep(target, additive=True)
    target.detach().add_(edit.value.detach().to(target))


def _add_gradient(edit: AddGradient, network: Operand, ledger: Ledger) -> None:
    target = network.parameter(edit.target)
    if target.grad is None:
        ledger.push(lambda: setattr(target, "grad", None))
        target.grad = torch.zeros_like(target)
    else:
        ledger.keep(target.grad, additive=True)
    value = edit.value.detach().to(target.grad)
    if network.grad_scale is not None:
        value = value * network.grad_scale.to(value)
    target.grad.detach().add_(value)


def _clear_moments(edit: ClearMoments, network: Operand, ledger: Ledger) -> None:
    parameter = network.parameter(edit.target)
    for holder in network.holders.of(parameter):
        for state, fill in moments(parameter, holder, component=network.component, name=edit.target):
            _overwrite(state, torch.full((), fill, dtype=state.dtype, device=state.device), edit.mask, ledger)


def _replace(edit: ReplaceModule, network: Operand, ledger: Ledger) -> None:
    replace_module(edit.target, edit.make, network.model, network.optimizers, ledger.push, network.component)
    network.holders = Holders(network.optimizers)


_CHECK: dict[type[Edit], Callable[[Any, Operand], None]] = {
    SetValues: _check_set,
    AddValues: _check_add,
    SetBuffer: _check_buffer,
    AddGradient: _check_gradient,
    ClearMoments: _check_clear,
    ReplaceModule: _check_replace,
}
_APPLY: dict[type[Edit], Callable[[Any, Operand, Ledger], None]] = {
    SetValues: _set_values,
    AddValues: _add_values,
    SetBuffer: _set_buffer,
    AddGradient: _add_gradient,
    ClearMoments: _clear_moments,
    ReplaceModule: _replace,
}
