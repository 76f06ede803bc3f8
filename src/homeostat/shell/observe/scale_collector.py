"""The loss scale of a GradScaler over the last steps, and which of these were left out."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import torch
from torch import Tensor

from homeostat.diagnosis.facts import ScaleFacts

RECENT = 32
"""Steps that count as recent."""
FIRST_LOOK = 16
"""Left out steps after which the run is diagnosed; then again at every doubling. A run whose steps are all left out is
diagnosed at no other time."""


class ScaleCollector:
    """Keeps copies of the scale on its device. They are transferred when the facts are read."""

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._recent: deque[tuple[Tensor, bool]] = deque(maxlen=RECENT)
        self._steps = self._skipped = 0
        self._look = FIRST_LOOK

    def see(self, scale: Tensor, skipped: bool) -> None:
        """A step was taken or left out under this scale (0-dim, on its device)."""
        kept = scale.detach().clone()
        self._first = kept if self._first is None else self._first
        self._recent.append((kept, skipped))
        self._steps += 1
        self._skipped += skipped

    def due(self) -> bool:
        """Whether so many steps were left out that the run is to be diagnosed now."""
        if self._skipped < self._look:
            return False
        self._look *= 2
        return True

    def facts(self) -> ScaleFacts:
        """What is known now."""
        if self._first is None:
            return ScaleFacts()
        kept = [self._first, *(scale for scale, _ in self._recent)]
        first, *recent = torch.stack([scale.to(kept[-1].device, torch.float64) for scale in kept]).tolist()
        falls = [after < before for before, after in pairwise(recent)] + [False]
        # fused optimizers leave the step out themselves, so only the fall of the scale shows it
        left_out = sum(skipped or fell for (_, skipped), fell in zip(self._recent, falls, strict=True))
        return ScaleFacts(
            steps=self._steps,
            skipped=max(self._skipped, left_out),
            first=first,
            now=recent[-1],
            recent=len(recent),
            recent_skipped=left_out,
        )
