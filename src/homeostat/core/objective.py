"""The contract of an objective: a loss, advantage or reward transform that does not depend on the split of the batch.

An objective works in two passes, so that quantities of the whole batch (a number of tokens, a mean, a rank) do not
depend on its split into micro-batches:

    stats = objective.statistics(micro_batches)                       # no gradient, nothing but sums and lists
    for micro in micro_batches:
        objective.losses(micro, stats, knobs).values.sum().backward() # gradients accumulate to the whole batch's

Every returned value is a *share*: it is already divided by the normaliser of the whole batch, so the sum over all items
of all micro-batches is the loss. Do not divide by the number of micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import ClassVar, Literal

import torch
from torch import Tensor

from homeostat.core.component import Component
from homeostat.core.errors import BadInput
from homeostat.core.tensors import Reducers, reduced

Batch = Mapping[str, Tensor]
"""Field name -> tensor. The objective defines the fields and their shapes."""

Stats = dict[str, Tensor]
"""Statistics of a micro-batch or of the whole batch: name -> tensor [*R] or, for reducer "cat", [*R, M]."""

Knobs = Mapping[str, Tensor]

LOWEST = -1e4
"""Log-probabilities are limited to this from below: its exp is 0 in every dtype, and differences stay finite."""


@dataclass(frozen=True)
class Field:
    """One tensor of an objective's batch.

    Args:
        axes: "token" for [*R, N, T] (N items of at most T tokens), "item" for [*R, N].
        values: "log-probability" (at most 0), "real", "nonnegative", "uniform" (independent of everything else, on
            [0, 1)) or "mask" (True for tokens that count).
        mask: name of its mask; masked-out values have no influence.
        gradient: whether the loss is differentiated with respect to it.
    """

    axes: Literal["token", "item"]
    values: Literal["log-probability", "real", "nonnegative", "uniform", "mask"]
    mask: str = ""
    gradient: bool = False


@dataclass(frozen=True)
class Losses:
    """The result of an objective for one micro-batch.

    Args:
        values: shares of the batch's loss, per token [*R, N, T] (0 where masked out) or per item [*R, N].
        diagnostics: name -> shares of a number of the whole batch, same shapes, without gradient.
    """

    values: Tensor
    diagnostics: dict[str, Tensor] = field(default_factory=dict[str, Tensor])


@dataclass(frozen=True, kw_only=True)
class Objective(Component, abstract=True):
    """A loss, advantage or reward transform: a pure function from a batch to shares of the loss and diagnostics.

    Class attributes:
        fields: name -> description of a required tensor of the batch.
        reducers: field of the statistics -> how two parts of a batch are combined: "sum", "max", "min", or "cat" (a
            list of tokens, joined along the last axis).
    """

    kind: ClassVar[str] = "objective"
    fields: ClassVar[Mapping[str, Field]]
    reducers: ClassVar[Reducers] = {}

    def measure(self, batch: Batch, knobs: Knobs) -> Stats:
        """Statistics of one micro-batch. Pure, called without gradient."""
        raise NotImplementedError

    def finish(self, partials: Stats, knobs: Knobs) -> Stats:
        """Statistics of the whole batch from the combined parts. Pure."""
        return partials

    def losses(self, batch: Batch, stats: Stats, knobs: Knobs) -> Losses:
        """Shares of the loss of one micro-batch, given the statistics of the whole batch. Pure."""
        raise NotImplementedError

    def combine(self, first: Stats, second: Stats) -> Stats:
        """Combine the statistics of two parts of a batch."""
        return {name: reduced(self.reducers[name], value, second[name], axis=-1) for name, value in first.items()}

    @torch.no_grad()
    def statistics(self, batches: Iterable[Batch], knobs: Knobs | None = None) -> Stats:
        """Statistics of a batch in parts.

        Raises:
            BadInput: there is no part, or a part lacks a field or has one of another shape.
        """
        knobs = self.knobs() if knobs is None else knobs
        parts = [self.measure(self.checked(batch), knobs) for batch in batches]
        if not parts:
            raise BadInput(f"{self.name} needs at least one micro-batch")
        return self.finish(reduce(self.combine, parts), knobs)

    def __call__(self, batch: Batch, knobs: Knobs | None = None) -> Losses:
        """`losses` of a batch that is not split."""
        knobs = self.knobs() if knobs is None else knobs
        return self.losses(batch, self.statistics([batch], knobs), knobs)

    def checked(self, batch: Batch) -> Batch:
        """Check the fields of a batch and their shapes.

        Raises:
            BadInput: a field is missing, or its shape does not fit the others'.
        """
        missing = [name for name in self.fields if name not in batch]
        if missing:
            raise BadInput(f"{self.name} needs {', '.join(self.fields)}; the batch lacks {', '.join(missing)}")
        for name, spec in self.fields.items():
            other = spec.mask or next(iter(self.fields))
            same = batch[name].shape == batch[other].shape if spec.mask else _items(self, batch, name, other)
            if not same:
                shapes = f"{tuple(batch[name].shape)} and {tuple(batch[other].shape)}"
                raise BadInput(f"{self.name}: {name} and {other} must have the same items and tokens, got {shapes}")
        return batch


def _items(objective: Objective, batch: Batch, name: str, other: str) -> bool:
    """Whether two fields have the same replicas and items."""

    def lead(key: str) -> tuple[int, ...]:
        return tuple(batch[key].shape[: -1 if objective.fields[key].axes == "token" else None])

    return lead(name) == lead(other) and len(lead(name)) >= 1


def counted(values: Tensor, mask: Tensor) -> Tensor:
    """`values` where the mask is True, else 0, even for NaN; half precision becomes single."""
    return torch.where(mask, _single(values), 0.0)


def log_probability(values: Tensor, mask: Tensor) -> Tensor:
    """Limited log-probabilities: at least `LOWEST`, 0 where masked out; half precision becomes single."""
    return torch.where(mask, _single(values).clamp(min=LOWEST), 0.0)


def _single(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
