"""Rehearsal of old tasks with a frequency that falls as a power of their age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, integer, knob
from homeostat.core.edits import Edit, ExtendBatch
from homeostat.core.errors import Refused
from homeostat.core.treatment import Stage, State, Treatment, View


@dataclass(frozen=True, kw_only=True)
class PowerLawRehearsal(Treatment):
    """Append items of old tasks to every batch. While task k is learned, an item comes from task j with probability

        P(j) proportional to (k - j) ** -exponent,   j < k

    All kept items of a task are equally likely. `exponent` 0 is uniform over tasks. A task ends at `run.boundary()`;
    nothing is rehearsed before the first boundary.

    State (empty before the first batch): `inputs` and `targets` [T, per_task, ...], a uniform sample of each task's
    items without replacement (reservoir sampling by random keys), and `keys` [T, per_task], -1 for an empty slot.
    Non-finite items are not kept. Memory grows by `per_task` items with every task.

    Source: Gandhi, Shah, Marupudi and Varma (2024), arXiv:2401.10393. In the paper the environment repeats old items,
    as the stream `power-law-recurrence` does; the learner does not rehearse. `share` 0.5 and `per_task` 100 are our
    choice.

    Raises (at the first batch): Refused when inputs and targets are not tensors of equal length, or their shape
    changes.

    >>> PowerLawRehearsal(exponent=2.0).name
    'power-law-rehearsal'
    """

    name = "power-law-rehearsal"
    cite = Cite.of("power-law-rehearsal")
    stage = Stage.BATCH
    declared: ClassVar[Mapping[str, str]] = {
        "lifts": "replicas with different knobs would append different numbers of items, which cannot be stacked",
        "dtypes": "it keeps items of the user's batches in their dtype, and no statistics",
    }

    share: float = knob(0.5, low=0.0, high=16.0, neutral=0.0, unit="old items per new item", source="our choice")
    exponent: float = knob(1.0, low=0.0, high=16.0, unit="1", source="arXiv:2401.10393: about 1, not checked there")
    per_task: int = integer(100, doc="items kept of each task")

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        return {"inputs": torch.empty(0), "targets": torch.empty(0), "keys": torch.empty(0)}

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        inputs, targets = self._checked(view, state)
        if not len(inputs):
            return [], state
        count = round(float(knobs["share"]) * len(inputs))
        edits = [self._recalled(view, state, knobs, count)] if count and view.task and len(state["keys"]) else []
        return edits, self._kept(view, state, inputs, targets)

    def _checked(self, view: View, state: State) -> tuple[Tensor, Tensor]:
        inputs, targets = view.inputs, view.targets
        if inputs is None or targets is None or len(inputs) != len(targets):
            raise Refused(self.name, "the batch", "rehearsal needs inputs and targets of the same length")
        kept = (state["inputs"].shape[2:], state["targets"].shape[2:])
        if len(state["keys"]) and kept != (inputs.shape[1:], targets.shape[1:]):
            raise Refused(self.name, "the batch", "its items have a different shape from those kept so far")
        return inputs, targets

    def _recalled(self, view: View, state: State, knobs: Mapping[str, Tensor], count: int) -> ExtendBatch:
        """`count` items of past tasks, with replacement."""
        keys = state["keys"][: view.task]
        age = torch.arange(view.task, view.task - len(keys), -1, dtype=torch.float64)
        held = (keys >= 0).sum(1)
        weight = torch.where(held.cpu() > 0, age ** -knobs["exponent"].cpu(), 0.0)
        which, place = view.draw.uniform("recall", torch.empty(2, count, dtype=torch.float64))
        bounds = weight.cumsum(0)
        task = torch.searchsorted(bounds, which * bounds[-1], right=True).clamp(max=len(keys) - 1).to(keys.device)
        item = (place.to(keys.device) * held[task]).long().clamp(max=self.per_task - 1)
        return ExtendBatch("batch", state["inputs"][task, item], state["targets"][task, item], task)

    def _kept(self, view: View, state: State, inputs: Tensor, targets: Tensor) -> State:
        """The sample of the current task, updated with the items of this batch."""
        kept = {"inputs": inputs.detach(), "targets": targets.detach(), "keys": torch.empty(0, device=inputs.device)}
        grown = {name: self._room(state[name], like, view.task + 1) for name, like in kept.items()}
        draw = view.draw.uniform("keep", torch.empty(len(inputs), dtype=torch.float32, device=inputs.device))
        draw = torch.where(inputs.isfinite().flatten(1).all(1), draw, -1.0)
        keys, best = torch.cat([grown["keys"][view.task], draw]).topk(self.per_task)
        after = {"keys": keys}
        for name in ("inputs", "targets"):
            chosen = torch.cat([grown[name][view.task], kept[name]])[best]
            after[name] = torch.where((keys >= 0).reshape(-1, *[1] * (chosen.ndim - 1)), chosen, 0)
        for name, value in after.items():
            grown[name][view.task] = value
        return grown

    def _room(self, old: Tensor, like: Tensor, tasks: int) -> Tensor:
        """A copy with room for `tasks` tasks; new entries are -1 in `keys`, else 0."""
        fill = -1 if like.ndim == 1 and not len(like) else 0
        rows = torch.full((tasks, self.per_task, *like.shape[1:]), fill, dtype=like.dtype, device=like.device)
        return torch.cat([old, rows[len(old) :]]) if len(old) else rows
