"""Shape helpers for treatments: replica axes in front, unit axes behind."""

from __future__ import annotations

import torch
from torch import Tensor

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
