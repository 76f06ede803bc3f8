"""Small tensor functions that the contracts share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Reducer = Literal["sum", "max", "min", "cat"]
"""How two parts of a field are combined; "cat" concatenates along the samples."""
Reducers = Mapping[str, Reducer]
"""Field -> how two parts of it are combined."""


def reduced(how: Reducer, first: Tensor, second: Tensor, axis: int) -> Tensor:
    """Combine two parts of a field; `axis` is that of "cat"."""
    if how == "cat":
        return torch.cat([first, second], dim=axis)
    return {"sum": torch.add, "max": torch.maximum, "min": torch.minimum}[how](first, second)


def broadcast_knob(knob: Tensor, like: Tensor) -> Tensor:
    """A knob or statistic [] or [*R] on the device and in the dtype of `like`, shaped to broadcast over it.

    Replica axes are the leading axes of `like` [*R, ...].
    """
    knob = knob.to(device=like.device, dtype=like.dtype)
    return knob.reshape((*knob.shape, *(1,) * (like.ndim - knob.ndim)))
