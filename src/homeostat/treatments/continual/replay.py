"""Experience replay: train on a sample of all earlier items beside the new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, integer, knob, option
from homeostat.core.edits import Edit, ExtendBatch
from homeostat.core.errors import Refused
from homeostat.core.treatment import Stage, State, Treatment, View


@dataclass(frozen=True, kw_only=True)
class ExperienceReplay(Treatment):
    """Append items of a memory to every batch. No task boundaries are needed.

    The memory holds `capacity` items. With `balance` "reservoir" it is a uniform sample of all items seen so far
    (reservoir sampling by random keys). With "class" every class has equal room, and each class's items are a uniform
    sample of those seen; rare classes keep all their items. Items are drawn from the memory with replacement, before
    the items of the present batch enter it. Non-finite items are not kept.

    State (empty before the first batch): `inputs` and `targets` [capacity, ...], and `keys` [capacity], -1 for an empty
    slot.

    Source: Chaudhry et al. (2019), arXiv:1902.10486; one item of the memory for each new item, and the
    capacity, are our choice. Balance by class: Chrysakis and Moens (2020), whose sampler follows another rule.

    Raises (at the first batch): Refused when inputs and targets are not tensors of equal length, their shape changes,
    or the balance is by class and the targets are not class numbers [N].

    >>> ExperienceReplay(capacity=200).name
    'experience-replay'
    """

    cite = (
        Cite("Chaudhry et al.", 2019, "On Tiny Episodic Memories in Continual Learning", "1902.10486"),
        Cite("Chrysakis and Moens", 2020, "Online Continual Learning from Imbalanced Data", "", "ICML"),
    )
    stage = Stage.BATCH
    declared: ClassVar[Mapping[str, str]] = {
        "lifts": "replicas with different knobs would append different numbers of items, which cannot be stacked",
        "dtypes": "it keeps items of the user's batches in their dtype, and no statistics",
    }

    share: float = knob(1.0, low=0.0, high=16.0, neutral=0.0, unit="old items per new item", source="our choice")
    capacity: int = integer(1000, unit="items")
    balance: str = option("reservoir", choices=("reservoir", "class"), doc="how the memory's room is shared")

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        return {"inputs": torch.empty(0), "targets": torch.empty(0), "keys": torch.empty(0)}

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        inputs, targets = self._checked(view, state)
        if not len(inputs):
            return [], state
        count = round(float(knobs["share"]) * len(inputs))
        return self._recalled(view, state, count), self._kept(view, state, inputs.detach(), targets.detach())

    def _checked(self, view: View, state: State) -> tuple[Tensor, Tensor]:
        inputs, targets = view.inputs, view.targets
        if inputs is None or targets is None or len(inputs) != len(targets):
            raise Refused(self.name, "the batch", "replay needs inputs and targets of the same length")
        kept = (state["inputs"].shape[1:], state["targets"].shape[1:])
        if len(state["keys"]) and kept != (inputs.shape[1:], targets.shape[1:]):
            raise Refused(self.name, "the batch", "its items have a different shape from those kept so far")
        if self.balance == "class" and (targets.ndim != 1 or targets.is_floating_point()):
            raise Refused(self.name, "the targets", "a memory balanced by class needs class numbers [N]")
        return inputs, targets

    def _recalled(self, view: View, state: State, count: int) -> list[Edit]:
        """`count` items of the memory, with replacement."""
        held = int((state["keys"] >= 0).sum())
        if not count or not held:
            return []
        draw = view.draw.uniform("recall", torch.empty(count, dtype=torch.float64))
        chosen = (draw * held).long().clamp(max=held - 1).to(state["keys"].device)
        return [ExtendBatch("batch", state["inputs"][chosen], state["targets"][chosen])]

    def _kept(self, view: View, state: State, inputs: Tensor, targets: Tensor) -> State:
        """The memory after the items of this batch; empty slots come last."""
        draw = view.draw.uniform("keep", torch.empty(len(inputs), dtype=torch.float32, device=inputs.device))
        new = {
            "inputs": inputs,
            "targets": targets,
            "keys": torch.where(inputs.isfinite().flatten(1).all(1), draw, -1.0),
        }
        room = {key: value.new_zeros(self.capacity, *value.shape[1:]) for key, value in new.items()}
        room["keys"] -= 1
        known = state if len(state["keys"]) else room
        pool = {key: torch.cat([known[key], value]) for key, value in new.items()}
        best = self._order(pool["keys"], pool["targets"])[: self.capacity]
        keys = pool["keys"][best]
        empty = keys < 0
        after = {"keys": keys}
        for key in ("inputs", "targets"):
            chosen = pool[key][best]
            after[key] = torch.where(empty.reshape(-1, *[1] * (chosen.ndim - 1)), 0, chosen)
        return after

    def _order(self, keys: Tensor, targets: Tensor) -> Tensor:
        """The order in which items are kept: largest keys first; by class, the first of each class first."""
        by_key = keys.argsort(descending=True, stable=True)
        if self.balance == "reservoir":
            return by_key
        classes = torch.where(keys[by_key] >= 0, targets[by_key], targets.max() + 1)
        by_class = classes.argsort(stable=True)
        sorted_classes = classes[by_class]
        starts = torch.searchsorted(sorted_classes.contiguous(), sorted_classes.contiguous())
        rank = torch.empty_like(by_class)
        rank[by_class] = torch.arange(len(keys), device=keys.device) - starts
        rank = torch.where(keys[by_key] >= 0, rank, len(keys))
        return by_key[rank.argsort(stable=True)]
