"""Find the targets of edits by name, and check edits before anything changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from homeostat.core.errors import BadInput, Refused, UnknownName
from homeostat.shell.edits.averaged_copies import Averaged, tensor_named
from homeostat.shell.edits.element_steps import ElementSteps
from homeostat.shell.edits.optimizer_state import Holders, moments
from homeostat.shell.edits.undo_log import UndoLog
from homeostat.shell.hooks.module_tree import named_buffers_in, named_parameters_in
from homeostat.shell.hooks.torch_internals import is_wrapper_tensor


class EditTargets:
    """A network with its optimizers and averaged copies, in which edits look up and check their targets."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        component: str,
        grad_scale: Tensor | None = None,
        averaged: Sequence[Averaged] = (),
        elements: ElementSteps | None = None,
    ) -> None:
        self.model, self.optimizers, self.component = model, optimizers, component
        self.grad_scale, self.averaged, self.elements = grad_scale, averaged, elements
        self._finite: list[tuple[str, Tensor]] = []
        self.look_again()

    def look_again(self) -> None:
        """Forget what was found: modules, parameters or optimizer state were replaced."""
        self.holders = Holders(self.optimizers)
        self._found: dict[str, nn.Parameter] = {}
        self._moments: dict[str, list[tuple[Tensor, float]]] = {}

    def parameter(self, name: str) -> nn.Parameter:
        """A parameter that an optimizer trains.

        Raises:
            UnknownName, Refused: see `apply_edits`.
        """
        if name in self._found:
            return self._found[name]
        found = tensor_named(self.model, name)
        if not isinstance(found, nn.Parameter):
            raise UnknownName(
                "parameter", name, (n for n, _ in named_parameters_in(self.model, remove_duplicate=False))
            )
        self.check_plain(name, found)
        if not found.requires_grad:
            raise Refused(self.component, name, "it is frozen (requires_grad is False)")
        if not self.holders.of(found):
            raise Refused(self.component, name, "no attached optimizer trains it")
        self._found[name] = found
        return found

    def moments(self, name: str) -> list[tuple[Tensor, float]]:
        """Per-element state of a parameter in every optimizer that trains it; raises as `optimizer_state.moments`."""
        if name not in self._moments:
            parameter = self.parameter(name)
            several = (moments(parameter, h, component=self.component, name=name) for h in self.holders.of(parameter))
            self._moments[name] = [pair for each in several for pair in each]
        return self._moments[name]

    def buffer(self, name: str) -> Tensor:
        """A buffer by name; raises UnknownName or Refused as `parameter`."""
        found = tensor_named(self.model, name)
        if found is None or isinstance(found, nn.Parameter):
            raise UnknownName("buffer", name, (n for n, _ in named_buffers_in(self.model, remove_duplicate=False)))
        self.check_plain(name, found)
        return found

    def counterparts(self, name: str, target: Tensor) -> Iterator[Tensor]:
        """The same-named tensor of every averaged copy that follows this part of the network.

        Raises:
            Refused: a copy lacks it, has it in another shape, or shares it with the network.
        """
        for averaged in self.averaged:
            if averaged.inside(name) is None or averaged.copy is None:
                continue
            found = averaged.counterpart(name)
            if found is None or found.shape != target.shape:
                why = "has none" if found is None else f"has shape {list(found.shape)} there, not {list(target.shape)}"
                raise Refused(
                    self.component, name, f"the averaged copy {why}; build the copy from the network as it is"
                )
            if found is target or found.data_ptr() == target.data_ptr() != 0:
                raise Refused(self.component, name, "an averaged copy shares its values with the network")
            self.check_plain(name, found)
            yield found

    def with_copies(self, name: str, target: Tensor, follow: bool) -> list[Tensor]:
        """The tensor, then its counterparts if averaged copies follow; raises as `counterparts`."""
        return [target, *(self.counterparts(name, target) if follow else ())]

    def restart_elements(self, name: str, old: Tensor, new: nn.Parameter, mask: Tensor, undo: UndoLog) -> None:
        """Count the steps of the masked elements from now on, if counts are kept per element.

        Args:
            old, new: the parameter before and after it grew, the same one if it did not.
        """
        if self.elements is None:
            return
        holder = self.elements.counted(name, self.holders.of(old), self.component)
        if holder is not None:
            undo.push(self.elements.begin(name, new, mask, holder))

    def copies_of(self, path: str) -> list[tuple[nn.Module, str]]:
        """The averaged copies that follow the module at `path`, each with its path there."""
        return [(a.copy, inner) for a in self.averaged if (inner := a.inside(path)) and a.copy is not None]

    def check_dense(self, name: str, parameter: Tensor) -> None:
        """Check that the gradient is not sparse; raises Refused."""
        if parameter.grad is not None and parameter.grad.layout != torch.strided:
            raise Refused(self.component, name, "its gradient is sparse")

    def check_plain(self, name: str, tensor: Tensor) -> None:
        """Check that it is an ordinary tensor with values; raises Refused."""
        if is_wrapper_tensor(tensor):
            raise Refused(self.component, name, f"it is a {type(tensor).__name__} (sharded or wrapped tensor)")
        if tensor.is_meta or is_lazy(tensor):
            raise Refused(self.component, name, "it has no values yet (meta device or lazy module)")

    def check_fits(self, name: str, target: Tensor, value: Tensor | None, mask: Tensor | None = None) -> None:
        """Check that value and mask broadcast to the target; `check_finite` will check the value."""
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
        """Check all values seen so far in one transfer: a finite sum proves that all terms are finite.

        Raises:
            BadInput: a value is NaN or infinite.
        """
        if not self._finite:
            return
        sums = [value.sum() for _, value in self._finite]
        if len({(each.dtype, each.device) for each in sums}) > 1:
            sums = [each.to("cpu", torch.float64) for each in sums]
        if bool(torch.isfinite(torch.stack(sums)).all()):
            return
        for name, value in self._finite:
            if not bool(torch.isfinite(value).all()):
                raise BadInput(f"{self.component}: values for {name} are not finite")


def _broadcasts(value: Tensor, target: Tensor) -> bool:
    sizes, goal = value.shape, target.shape  # torch.broadcast_shapes costs more than all other checks together
    return len(sizes) <= len(goal) and all(a in (1, b) for a, b in zip(sizes[::-1], goal[::-1], strict=False))
