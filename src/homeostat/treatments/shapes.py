"""Shape helpers for treatments. Replica axes come first, unit axes last."""

from __future__ import annotations

import torch
from torch import Tensor

from homeostat.core.treatment import View


def lead(view: View) -> int:
    """Number of replica axes: 0 for a single run, 1 for a fleet."""
    return 0 if isinstance(view.draw.seed, int) else 1


def statistic_dtype(like: Tensor) -> torch.dtype:
    """The dtype for running statistics of a parameter: at least float32."""
    return torch.promote_types(like.dtype, torch.float32)
