"""Putting another module in a module's place, with its parameters' optimizer membership. Called by surgery only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from homeostat.core.errors import BadInput, Refused, UnknownName
from homeostat.shell.optimizers import Holders, join, leave

Push = Callable[[Callable[[], object]], None]


def check_replace(path: str, model: nn.Module, component: str) -> None:
    """The module exists and can be replaced.

    Raises:
        UnknownName: there is no module at `path`.
        Refused: it is the root, or the network's parameters are fixed in buckets or in a compiled script.
    """
    if path == "":
        raise Refused(component, "the whole network", "its root cannot be replaced: the caller holds it")
    modules = dict(model.named_modules(remove_duplicate=False))
    if path not in modules:
        raise UnknownName("module", path, (name for name in modules if name))
    wrapped = next((m for m in modules.values() if isinstance(m, nn.parallel.DistributedDataParallel)), None)
    if wrapped is not None:
        raise Refused(component, path, "DistributedDataParallel has fixed its parameters; replace before wrapping")
    if isinstance(model, torch.jit.ScriptModule):
        raise Refused(component, path, "the network is a compiled script")


def replace_module(
    path: str,
    make: Callable[[nn.Module], nn.Module],
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    push: Push,
    component: str,
) -> None:
    """Swap the module at `path` (under every name it has) for `make(module)`.

    Modules and tensors that were not part of the old one take its training mode, device and dtype. New parameters that
    require gradients join the old ones' optimizer group, else the first group of the first optimizer; those that are
    gone from the whole network leave group and state.

    Args:
        make: must leave the old module as it is (it may hold it); changes it makes inside cannot be undone.
        push: called with each way back, right after the change it undoes.
    """
    old = model.get_submodule(path)
    # taken now: `make` may build the new module around parts of the old one
    old_modules, old_parameters = set(old.modules()), dict(old.named_parameters())
    old_tensors = {id(t) for t in (*old.parameters(), *old.buffers())}
    new = make(old)
    if not isinstance(new, nn.Module):
        raise BadInput(f"{component}: the replacement for {path} must be a module, got {type(new).__name__}")
    _match(new, old.training, old_modules, old_tensors, _like(old, model))
    _swap(model, old, new, push)
    _follow(path, old_parameters, new, model, optimizers, push)


def _like(old: nn.Module, model: nn.Module) -> Tensor | None:
    tensors = (*old.parameters(), *old.buffers(), *model.parameters())
    return next((t for t in tensors if t.is_floating_point()), None)


def _match(
    new: nn.Module, training: bool, old_modules: set[nn.Module], old_tensors: set[int], like: Tensor | None
) -> None:
    for module in new.modules():
        if module in old_modules:
            continue
        module.training = training
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in old_tensors and like is not None:
                parameter.data = _cast(parameter.data, like)
        for key, buffer in module._buffers.items():
            if buffer is not None and id(buffer) not in old_tensors and like is not None:
                module._buffers[key] = _cast(buffer, like)


def _cast(tensor: Tensor, like: Tensor) -> Tensor:
    return tensor.to(like.device, like.dtype) if tensor.is_floating_point() else tensor.to(like.device)


def _swap(model: nn.Module, old: nn.Module, new: nn.Module, push: Push) -> None:
    inside = set(new.modules())
    for parent in list(model.modules()):
        for key, child in list(parent._modules.items()):
            if child is old and parent not in inside:
                parent._modules[key] = new
                push(lambda parent=parent, key=key: parent._modules.__setitem__(key, old))


def _follow(
    path: str,
    old: dict[str, nn.Parameter],
    new: nn.Module,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    push: Push,
) -> None:
    holders = Holders(optimizers)
    home = holders.first(old.values()) or holders.first(model.parameters())
    for name, parameter in new.named_parameters():
        if parameter.requires_grad and not holders.of(parameter) and home is not None:
            push(join(home, parameter, f"{path}.{name}"))
    alive = {id(p) for p in model.parameters()}
    for name, parameter in old.items():
        if id(parameter) not in alive:
            for holder in holders.of(parameter):
                push(leave(holder, parameter, f"{path}.{name}"))
