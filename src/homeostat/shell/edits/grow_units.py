"""Add units to a layer: longer parameters and buffers take the old ones' places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from homeostat.core.edits import GrowUnits
from homeostat.core.errors import BadInput, Refused
from homeostat.core.units import Axis
from homeostat.shell.edits.handler import apply, check
from homeostat.shell.edits.optimizer_state import check_mutable, moments, substitute
from homeostat.shell.edits.replace_module import check_replace
from homeostat.shell.edits.targets import EditTargets
from homeostat.shell.edits.undo_log import UndoLog
from homeostat.shell.hooks.module_tree import named_parameters_in
from homeostat.shell.hooks.torch_internals import gradient_hooks, owner_table

_CONV = {0: "out_channels", 1: "in_channels"}
_NORM = {0: "num_features"}
_SIZES: dict[type[nn.Module], dict[int, str]] = {
    nn.Linear: {0: "out_features", 1: "in_features"},
    nn.Conv1d: _CONV,
    nn.Conv2d: _CONV,
    nn.Conv3d: _CONV,
    nn.BatchNorm1d: _NORM,
    nn.BatchNorm2d: _NORM,
    nn.BatchNorm3d: _NORM,
    nn.SyncBatchNorm: _NORM,
}
"""Kinds of modules that can be widened -> dimension of their tensors -> the attribute that states its size."""


@dataclass(frozen=True)
class Slice:
    """What one tensor gains.

    Args:
        axis: where the units lie in it.
        added: indices appended along the axis' dimension.
        fill: value of the new slice where the edit names none.
    """

    axis: Axis
    added: int
    fill: float

    @property
    def path(self) -> str:
        """Of the module that holds the tensor."""
        return self.axis.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """What the module calls the tensor."""
        return self.axis.name.rpartition(".")[2]

    def shape(self, tensor: Tensor) -> list[int]:
        """Of the new slice."""
        return [self.added if dim == self.axis.dim else size for dim, size in enumerate(tensor.shape)]

    def longer(self, tensor: Tensor, new: Tensor | float) -> Tensor:
        """The tensor with the new slice at its end, in the same memory format."""
        new = torch.as_tensor(new, dtype=tensor.dtype, device=tensor.device).expand(self.shape(tensor))
        joined = torch.cat([tensor.detach(), new], self.axis.dim)
        dense = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        return joined.contiguous(memory_format=torch.channels_last if dense else torch.contiguous_format)


def _slices(edit: GrowUnits, network: EditTargets) -> Iterator[Slice]:
    group = edit.group
    for axis in (*group.rows, *group.columns, *group.carriers, *group.buffers):
        yield Slice(axis, edit.count * _positions(axis, group.width, network), _start(axis))


def _start(axis: Axis) -> float:
    """1 for what a norm multiplies with and for its running variance."""
    return 1.0 if axis.dim == 0 and axis.name.endswith(("weight", "running_var")) else 0.0


def _positions(axis: Axis, width: int, network: EditTargets) -> int:
    each = axis.owner.numel() // width if width else 0
    if axis.groups != 1 or not each or not torch.equal(axis.owner.cpu(), torch.arange(width).repeat_interleave(each)):
        why = "its units do not lie one after another along it, so new ones cannot be appended"
        raise Refused(network.component, axis.name, why)
    return each


@check.register
def check_growth(edit: GrowUnits, network: EditTargets) -> None:
    """Check that the layer can be widened.

    Raises:
        BadInput: no count, incoming weights not given, values that do not fit, or for tensors that do not grow.
        Refused: a norm over the units (more of them change the value of all), a layer or optimizer state of a kind
            that cannot be widened, a tied or hooked parameter, a group that is not of this network.
    """
    check_replace(edit.target, network)
    group, asks = edit.group, network.component
    if edit.count < 1 or edit.target != group.layer:
        raise BadInput(f"{asks}: growth needs a count of at least 1 and the group of {edit.target}")
    if not group.rows or not group.columns or group.weight.name not in edit.values:
        raise BadInput(f"{asks}: growth of {edit.target} needs units with consumers and values for their weights")
    if group.mixers:
        raise Refused(
            asks, edit.target, f"{group.mixers[0]} normalises over its units: more of them change all of them"
        )
    slices = list(_slices(edit, network))
    names = [s.axis.name for s in slices]
    if len(set(names)) < len(names):
        raise Refused(asks, edit.target, "one tensor both makes and uses its units")
    if strange := sorted(set(edit.values) - set(names)):
        raise BadInput(f"{asks}: growth of {edit.target} does not change {strange[0]}")
    buffers = {axis.name for axis in group.buffers}
    for each in slices:
        _check_slice(each, each.axis.name in buffers, edit, network)


def _check_slice(each: Slice, is_buffer: bool, edit: GrowUnits, network: EditTargets) -> None:
    name, asks = each.axis.name, network.component
    tensor = network.buffer(name) if is_buffer else network.parameter(name)
    module = network.model.get_submodule(each.path)
    size = _SIZES.get(type(module), {}).get(each.axis.dim)
    if size is None:
        raise Refused(asks, name, f"a {type(module).__name__} cannot be widened without changing its other units")
    if getattr(module, "groups", 1) != 1:
        raise Refused(asks, name, "its channels are in groups")
    if each.axis.dim >= tensor.ndim or tensor.shape[each.axis.dim] != each.axis.owner.numel():
        raise Refused(asks, name, "the group is not of this network as it is now")
    if name in edit.values:
        network.check_fits(f"the new slice of {name}", tensor.detach().new_empty(each.shape(tensor)), edit.values[name])
    network.with_copies(name, tensor, True)
    if not is_buffer:
        _check_parameter(name, tensor, network)


def _check_parameter(name: str, parameter: Tensor, network: EditTargets) -> None:
    asks = network.component
    if type(parameter) is not nn.Parameter:
        raise Refused(asks, name, f"it is a {type(parameter).__name__}, not a plain parameter")
    if sum(p is parameter for _, p in named_parameters_in(network.model, remove_duplicate=False)) > 1:
        raise Refused(asks, name, "it is tied to another parameter")
    if gradient_hooks(parameter):
        raise Refused(asks, name, "it carries hooks, which a longer parameter would lose")
    network.check_dense(name, parameter)
    if network.elements is not None:
        network.elements.counted(name, network.holders.of(parameter), asks)
    for holder in network.holders.of(parameter):
        check_mutable(holder[0], name)
        moments(parameter, holder, component=asks, name=name)


@apply.register
def _(edit: GrowUnits, network: EditTargets, undo: UndoLog) -> None:
    for each in _slices(edit, network):
        new = edit.values.get(each.axis.name, each.fill)
        _extend(network.model, each.path, each, new, network, undo)
        for averaged in network.averaged:
            if averaged.copy is not None and (inner := averaged.inside(each.axis.name)) is not None:
                _extend(averaged.copy, inner.rpartition(".")[0], each, new, None, undo)
    network.look_again()


def _extend(
    model: nn.Module, path: str, each: Slice, new: Tensor | float, network: EditTargets | None, undo: UndoLog
) -> None:
    module, leaf = model.get_submodule(path), each.leaf
    table = owner_table(module, leaf)
    old = table[leaf]
    assert old is not None
    longer = each.longer(old, new)
    if isinstance(old, nn.Parameter):
        longer = _parameter(old, longer, each)
        for holder in network.holders.of(old) if network is not None else ():
            undo.push(substitute(holder, old, longer, each.longer, each.axis.name))
        if network is not None:
            new_part = each.longer(torch.zeros_like(old, dtype=torch.bool), True)
            network.restart_elements(each.axis.name, old, longer, new_part, undo)
    table[leaf] = longer
    undo.push(partial(table.__setitem__, leaf, old))
    size = _SIZES[type(module)][each.axis.dim]
    undo.push(partial(setattr, module, size, getattr(module, size)))
    setattr(module, size, longer.shape[each.axis.dim])


def _parameter(old: nn.Parameter, values: Tensor, each: Slice) -> nn.Parameter:
    new = nn.Parameter(values, old.requires_grad)
    for key, value in vars(old).items():
        setattr(new, key, value)
    if old.grad is not None:
        new.grad = each.longer(old.grad, 0.0)
    return new
