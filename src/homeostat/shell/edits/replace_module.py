"""Replace a module, in the network and its averaged copies, and update the optimizers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from homeostat.core.edits import ReplaceModule
from homeostat.core.errors import BadInput, Refused, UnknownName
from homeostat.shell.edits.handler import apply, check
from homeostat.shell.edits.optimizer_state import join, leave
from homeostat.shell.edits.targets import EditTargets
from homeostat.shell.edits.undo_log import UndoLog
from homeostat.shell.hooks.module_tree import (
    buffers_in,
    modules_in,
    named_buffers_in,
    named_modules_in,
    named_parameters_in,
    parameters_in,
)
from homeostat.shell.hooks.torch_internals import buffers_of, children_of, own_parameters
from homeostat.shell.hooks.wrappers import live


def check_replace(path: str, network: EditTargets) -> None:
    """Check that the module exists and can be replaced.

    Raises:
        UnknownName: there is no module at `path`.
        Refused: it is the root, the network's parameters are fixed in buckets, shards or a compiled script, or an
            averaged copy follows a part of it only.
    """
    model, component = network.model, network.component
    if path == "":
        raise Refused(component, "the whole network", "its root cannot be replaced: the caller holds it")
    modules = dict(named_modules_in(model, remove_duplicate=False))
    if path not in modules:
        raise UnknownName("module", path, (name for name in modules if name))
    if isinstance(model, torch.jit.ScriptModule):
        raise Refused(component, path, "the network is a compiled script")
    if _distributed(model, set(modules.values())):
        raise Refused(component, path, "DistributedDataParallel has fixed its parameters; replace before wrapping")
    for name, parameter in named_parameters_in(modules[path]):
        network.check_plain(f"{path}.{name}", parameter)
    for averaged in network.averaged:
        if averaged.path == path or averaged.path.startswith(path + "."):
            why = f"only its part {averaged.path!r} is averaged: the copy could not follow"
            raise Refused(component, path, why)


def _distributed(model: nn.Module, inside: set[nn.Module]) -> bool:
    """Whether DistributedDataParallel is inside the network or around it."""
    wrapper = nn.parallel.DistributedDataParallel
    if any(isinstance(module, wrapper) for module in inside):
        return True
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    return any(module is model for ddp in live(wrapper) for module in modules_in(ddp))


@check.register
def _(edit: ReplaceModule, network: EditTargets) -> None:
    check_replace(edit.target, network)


@apply.register
def _(edit: ReplaceModule, network: EditTargets, undo: UndoLog) -> None:
    new = _replace(edit, network, undo)
    network.look_again()
    for copy, path in network.copies_of(edit.target):
        _replace_in_copy(path, edit.make, copy, new, undo, network.component)


def _replace(edit: ReplaceModule, network: EditTargets, undo: UndoLog) -> nn.Module:
    """Swap the module at the target, under every name it has, for `edit.make(module)`.

    Modules and tensors that were not part of the old one take its training mode, device and dtype. New parameters that
    require gradients join the optimizer group of the old ones, else the first group of the first optimizer. Parameters
    that left the whole network leave group and state. Changes that `make` makes inside the old module stay.
    """
    model, old = network.model, network.model.get_submodule(edit.target)
    # read first: `make` may build the new module around parts of the old one
    modules, parameters = set(modules_in(old)), dict(named_parameters_in(old))
    tensors = {id(t) for t in (*parameters_in(old), *buffers_in(old))}
    new = _made(edit.target, edit.make, old, network.component)
    _match(new, old.training, modules, tensors, _like(old, model))
    _swap(model, old, new, undo)
    _follow(edit.target, parameters, new, network, undo)
    return new


def _replace_in_copy(
    path: str,
    make: Callable[[nn.Module], nn.Module],
    copy: nn.Module,
    new: nn.Module,
    undo: UndoLog,
    component: str,
) -> None:
    """Do the same in an averaged copy; its new tensors get the network's values.

    Args:
        path: of the module in the copy.
        new: what `make` made for the network.

    Raises:
        Refused: `make` does not make the same again (other names or shapes, or the network's own tensors).
    """
    old = copy.get_submodule(path)
    modules, tensors = set(modules_in(old)), {id(t) for t in (*parameters_in(old), *buffers_in(old))}
    trains = any(p.requires_grad for p in parameters_in(old))
    made = _made(path, make, old, component)
    _match(made, old.training, modules, tensors, _like(old, copy))
    there, here = (dict((*named_parameters_in(m), *named_buffers_in(m))) for m in (made, new))
    if {n: t.shape for n, t in there.items()} != {n: t.shape for n, t in here.items()}:
        raise Refused(component, path, "its replacement comes out differently for an averaged copy")
    if {id(t) for t in there.values()} & {id(t) for t in here.values()}:
        raise Refused(component, path, "its replacement would share tensors between the network and an averaged copy")
    for name, tensor in there.items():
        if id(tensor) not in tensors:
            tensor.detach().copy_(here[name].detach())
            tensor.requires_grad_(trains and here[name].requires_grad)
    _swap(copy, old, made, undo)


def _made(path: str, make: Callable[[nn.Module], nn.Module], old: nn.Module, component: str) -> nn.Module:
    new = make(old)
    if not isinstance(new, nn.Module):
        raise BadInput(f"{component}: the replacement for {path} must be a module, got {type(new).__name__}")
    return new


def _like(old: nn.Module, model: nn.Module) -> Tensor | None:
    tensors = (*parameters_in(old), *buffers_in(old), *parameters_in(model))
    return next((t for t in tensors if t.is_floating_point()), None)


def _match(
    new: nn.Module, training: bool, old_modules: set[nn.Module], old_tensors: set[int], like: Tensor | None
) -> None:
    for module in modules_in(new):
        if module in old_modules:
            continue
        module.training = training
        for parameter in own_parameters(module).values():
            if parameter is not None and id(parameter) not in old_tensors and like is not None:
                parameter.data = _cast(parameter.data, like)
        for key, buffer in buffers_of(module).items():
            if buffer is not None and id(buffer) not in old_tensors and like is not None:
                buffers_of(module)[key] = _cast(buffer, like)


def _cast(tensor: Tensor, like: Tensor) -> Tensor:
    return tensor.to(like.device, like.dtype) if tensor.is_floating_point() else tensor.to(like.device)


def _swap(model: nn.Module, old: nn.Module, new: nn.Module, undo: UndoLog) -> None:
    inside = set(modules_in(new))
    for parent in list(modules_in(model)):
        table = children_of(parent)
        for key, child in list(table.items()):
            if child is old and parent not in inside:
                table[key] = new
                undo.push(partial(table.__setitem__, key, old))


def _follow(path: str, old: dict[str, nn.Parameter], new: nn.Module, network: EditTargets, undo: UndoLog) -> None:
    holders = network.holders
    home = holders.first(old.values()) or holders.first(parameters_in(network.model))
    for name, parameter in named_parameters_in(new):
        if parameter.requires_grad and not holders.of(parameter) and home is not None:
            undo.push(join(home, parameter, f"{path}.{name}"))
    alive = {id(p) for p in parameters_in(network.model)}
    for name, parameter in old.items():
        if id(parameter) not in alive:
            for holder in holders.of(parameter):
                undo.push(leave(holder, parameter, f"{path}.{name}"))
