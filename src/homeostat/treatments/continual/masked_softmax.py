"""Masked softmax: exclude irrelevant classes from the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from homeostat.core.component import Cite, knob, option
from homeostat.core.edits import Edit, MaskOutputs
from homeostat.core.errors import Refused
from homeostat.core.tensors import broadcast_knob
from homeostat.core.treatment import Stage, State, Treatment, View
from homeostat.treatments.shapes import lead


@dataclass(frozen=True, kw_only=True)
class MaskedSoftmax(Treatment):
    """Replace the logits of irrelevant classes by a constant `floor` m before the cross-entropy.

        p_i = exp(z_i) / (sum over relevant c of exp(z_c) + n_masked * exp(m)),   i relevant

    In a class-incremental stream, plain cross-entropy lowers the logits of all classes absent from the batch, which
    destroys what was learned about them. Masked logits get no gradient. A floor near minus infinity is the usual full
    mask and is the most stable. A higher floor makes the relevant logits rise above it, so the network learns new
    classes faster: the floor trades stability for plasticity.

    With `relevant` "task", a class belongs to the task in which it was first seen. For an item of the current task the
    relevant classes are those of the current task seen so far; for an item of an older (rehearsed) task, those of all
    older tasks. With "batch" they are the classes in the batch. Items with targets outside 0..C-1 (ignored items) are
    not masked.

    State: `first_seen` [*R, C], the task in which each class was first seen, -1 for none yet; [*R, 0] before the first
    batch.

    Source: Kim et al. (2023), arXiv:2309.14808, general masked softmax. The paper's recommended floors were not
    checked; the default is the full mask in every floating-point format.

    Raises (at the first batch): Refused when the outputs are not [N, C] or the targets are not class numbers [N].

    >>> MaskedSoftmax(floor=-2.0).name
    'masked-softmax'
    """

    name = "masked-softmax"
    cite = Cite.of("masked-softmax-cl")
    stage = Stage.LOSS
    trial: ClassVar[Mapping[str, Any]] = {"relevant": "batch"}

    floor: float = knob(
        -1e4, low=-1e4, high=50.0, unit="logits", source="minus infinity (full mask) within the range of float16"
    )
    share: float = knob(1.0, low=0.0, high=1.0, neutral=0.0, unit="fraction of batches", source="every batch")

    relevant: str = option("task", choices=("task", "batch"), doc="which classes are relevant for an item")

    def init(self, view: View, knobs: Mapping[str, Tensor]) -> State:
        some = next(iter(view.parameters.values()))
        return {"first_seen": torch.zeros(*some.shape[: lead(view)], 0, dtype=torch.int64, device=some.device)}

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        outputs, targets = self._checked(view)
        classes, device = outputs.shape[-1], outputs.device
        first_seen = state["first_seen"]
        if not first_seen.shape[-1]:
            first_seen = first_seen.new_full((*outputs.shape[:-2], classes), -1)
        if first_seen.shape[-1] != classes:
            raise Refused(self.name, "the outputs", f"they had {first_seen.shape[-1]} classes before, now {classes}")
        known = (targets >= 0) & (targets < classes)
        present = (targets[..., None] == torch.arange(classes, device=device)).any(-2)
        first_seen = torch.where(present & (first_seen < 0), view.task, first_seen)

        relevant = self._relevant(first_seen, present, targets.clamp(0, classes - 1), view.task)
        drawn = view.draw.uniform("share", torch.empty(outputs.shape[:-2], dtype=torch.float64, device=device))
        asked = drawn < knobs["share"].to(device)
        masked = ~relevant & known[..., None] & asked[..., None, None]
        return [MaskOutputs("outputs", masked, broadcast_knob(knobs["floor"], outputs))], {"first_seen": first_seen}

    def _relevant(self, first_seen: Tensor, present: Tensor, targets: Tensor, task: int) -> Tensor:
        """The relevant classes of each item: bool [*R, N, C]."""
        if self.relevant == "batch":
            return present[..., None, :].expand(*targets.shape, -1)
        own = first_seen.gather(-1, targets) == task
        older = (first_seen >= 0) & (first_seen < task)
        return torch.where(own[..., None], (first_seen == task)[..., None, :], older[..., None, :])

    def _checked(self, view: View) -> tuple[Tensor, Tensor]:
        outputs, targets = view.outputs, view.targets
        if outputs is None or targets is None or outputs.ndim != 2 + lead(view):
            raise Refused(self.name, "the outputs", "a mask over classes needs outputs [N, C]")
        if targets.shape != outputs.shape[:-1] or targets.is_floating_point():
            raise Refused(self.name, "the targets", "a mask over classes needs class numbers [N]")
        return outputs, targets
