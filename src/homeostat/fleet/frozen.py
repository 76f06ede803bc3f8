"""A copy of a fleet's parameters that is evaluated without gradients: the target networks of value learning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.func import functional_call

from homeostat.shell.unit_graph.module_roles import tensors_in
from homeostat.shell.unit_graph.sandbox import map_tensors

if TYPE_CHECKING:
    from homeostat.fleet.fleet import Fleet


class FrozenFleet:
    """The parameters and buffers of a fleet at one time.

    Args:
        fleet: the fleet that is copied; its modules are used for the computation.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._tensors = [{n: t.clone() for n, t in stack.tensors().items()} for stack in fleet.stacks]

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs [R, B, ...] for inputs [R, B, ...]."""
        many: list[Any] = []
        parts = self._fleet.split(args, kwargs)
        for stack, tensors, (a, k) in zip(self._fleet.stacks, self._tensors, parts, strict=True):
            many.append(functional_call(stack.model, tensors, a, k))
        return joined(many)

    @torch.no_grad()
    def update(self, share: float = 1.0) -> None:
        """Move towards the fleet's present parameters: copy <- (1 - share) * copy + share * present."""
        for stack, tensors in zip(self._fleet.stacks, self._tensors, strict=True):
            for name, present in stack.tensors().items():
                if share == 1.0 or not present.is_floating_point():
                    tensors[name].copy_(present)
                else:
                    tensors[name].lerp_(present, share)

    def state_dict(self) -> list[dict[str, torch.Tensor]]:
        """The tensors of every group."""
        return [dict(tensors) for tensors in self._tensors]

    def load_state_dict(self, state: list[dict[str, torch.Tensor]]) -> None:
        """Continue from `state_dict`."""
        self._tensors = [{n: t.clone() for n, t in tensors.items()} for tensors in state]


def joined(many: list[Any]) -> Any:
    """Outputs of groups of replicas as those of all."""
    if len(many) == 1:
        return many[0]
    columns = iter([torch.cat(column) for column in zip(*(tensors_in(each) for each in many), strict=True)])
    return map_tensors(lambda _: next(columns), many[0])
