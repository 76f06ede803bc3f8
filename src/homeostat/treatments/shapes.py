"""Shape helpers for treatments: replica axes in front, unit axes behind."""

from __future__ import annotations

import torch
from torch import Tensor

from homeostat.core.errors import BadSetting
from homeostat.core.treatment import View


def lead(view: View) -> int:
    """Number of replica axes: 0 for a solo run, 1 for a fleet."""
    return 0 if isinstance(view.draw.seed, int) else 1


def beside(knob: Tensor, like: Tensor) -> Tensor:
    """A knob [] or [*R] in the dtype of `like` and shaped to broadcast over it from the left."""
    knob = knob.to(device=like.device, dtype=like.dtype)
    return knob.reshape((*knob.shape, *(1,) * (like.ndim - knob.ndim)))


def statistic_dtype(like: Tensor) -> torch.dtype:
    """The dtype in which running statistics of a parameter are kept: never less than float32."""
    return torch.promote_types(like.dtype, torch.float32)


def check_every(name: str, every: object) -> None:
    """A cadence is a whole number of steps.

    Raises:
        BadSetting: it is not, or is below 1.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise BadSetting(f"{name}.every must be a whole number of steps of at least 1, got {every!r}")
