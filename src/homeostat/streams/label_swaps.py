"""Concept shift: the labels of two classes are swapped repeatedly."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from homeostat.core.component import Cite, integer
from homeostat.core.errors import BadSetting
from homeostat.core.random import Draw
from homeostat.core.stream import Stream
from homeostat.streams.data import Data, resolve
from homeostat.streams.tasks import check_step, shuffled


@dataclass(frozen=True, kw_only=True)
class LabelSwaps(Stream):
    """Swap the labels of two random classes every `period` steps. The images do not change.

    P(y|x) changes, P(x) does not. With `season`, the period changes too (second-order shift): `period` and `other`
    alternate every `season` steps. Items are shown in passes, reshuffled for every pass.

    Settings:
        data: "digits", the path of an MNIST-format folder, or `arrays(inputs, labels)`.
        steps: length of the stream, in batches.
        period: steps between two swaps; 0 means none.
        other: the period that alternates with `period`.
        season: steps between changes of the period; 0 means that it does not change (first-order shift).

    Source: the swaps of Man, Damasio and Neven (2022).

    >>> LabelSwaps(steps=100, period=20, other=10, season=40).boundaries
    (20, 40, 50, 60, 70, 80)
    """

    data: Data | str | Path = field(default="digits")
    batch_size: int = integer(10)
    steps: int = integer(1000)
    period: int = integer(50, low=0)
    other: int = integer(0, low=0)
    season: int = integer(0, low=0)

    cite = Cite.of("homeostatic-nn")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.season and not self.other:
            raise BadSetting(f"{self.name}.other must be a whole number of at least 1 where there are seasons, got 0")

    @cached_property
    def source(self) -> Data:
        """The data behind the stream."""
        return resolve(self.data)

    @cached_property
    def boundaries(self) -> tuple[int, ...]:  # type: ignore[override]
        found, step = list[int](), 0
        while self.period:
            step += self.other if self.season and step // self.season % 2 else self.period
            if step >= self.steps:
                break
            found.append(step)
        return tuple(found)

    def __len__(self) -> int:
        return self.steps

    def task(self, step: int) -> int:
        return bisect_right(self.boundaries, step)

    def concept(self, step: int) -> Tensor:
        """The label of each class at `step`, int64 [classes]."""
        return self._names[self.task(check_step(self, step))]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        names = self.concept(step)
        turn, place = divmod(step, -(-len(self.source) // self.batch_size))
        order = shuffled(self.seed, (self.name, "order", turn), len(self.source))
        index = order[place * self.batch_size : (place + 1) * self.batch_size]
        return self.source.inputs[index], names[self.source.labels[index]]

    @cached_property
    def _names(self) -> list[Tensor]:
        """Labels after 0, 1, 2, ... swaps."""
        classes, found = self.source.classes, [torch.arange(self.source.classes)]
        for swap in range(len(self.boundaries)):
            generator = Draw(self.seed, ("stream", self.name, swap)).generator("swap")
            one, two = torch.randperm(classes, generator=generator)[:2].unbind()
            names = found[-1].clone()
            names[found[-1] == one], names[found[-1] == two] = two, one
            found.append(names)
        return found

    def settings(self) -> dict[str, Any]:
        named = self.data.name if isinstance(self.data, Data) else str(self.data)
        return {**super().settings(), "data": named}
