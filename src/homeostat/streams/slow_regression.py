"""Slowly changing regression: a fixed random target network on input bits, of which a few change slowly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from homeostat.core.component import Cite, integer, option
from homeostat.core.errors import BadSetting
from homeostat.core.random import Draw, derived_seed
from homeostat.core.stream import Stream
from homeostat.streams.tasks import check_step


@dataclass(frozen=True, kw_only=True)
class SlowlyChangingRegression(Stream):
    """The bit-flipping problem: predict the output of a fixed random network of linear threshold units.

    An input has `bits` bits and a constant 1. The first `slow` bits are the same for all items; every `flip_every`
    steps a random one of them flips. The other bits are drawn for every item. The target is

        y = sum_i v_i [ sum_j w_ij x_j > theta_i ],   theta_i = (bits + 1) * beta - S_i

    with w and v drawn from {-1, +1} and S_i the number of -1 among w_i. The target network does not change; the
    distribution of the inputs does.

    Settings:
        bits: number of all bits (m = 20 in the paper).
        slow: number of slow bits (f = 15).
        flip_every: steps between flips (10,000 items in the paper, one a step).
        flips: number of flips in the stream.
        units: number of threshold units of the target network (100).
        beta: position of the thresholds (0.7).

    Shapes: inputs float32 [batch, bits + 1], targets float32 [batch, 1].

    Source: Dohare et al. (2024), the slowly changing regression problem. The defaults are the paper's, except for
    batches of 32 items and correspondingly fewer steps between flips.

    >>> SlowlyChangingRegression(flips=3, flip_every=5).boundaries
    (5, 10, 15)
    """

    bits: int = integer(20)
    slow: int = integer(15)
    flip_every: int = integer(313)
    flips: int = integer(100, low=0)
    units: int = integer(100)
    beta: float = option(0.7)

    cite = Cite.of("continual-backprop")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slow > self.bits:
            raise BadSetting(f"{self.name}.slow is {self.slow}, but there are only {self.bits} bits")

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The first steps with a flipped bit."""
        return tuple(range(self.flip_every, len(self), self.flip_every))

    def __len__(self) -> int:
        return (self.flips + 1) * self.flip_every

    def concept(self, step: int) -> Tensor:
        """The slow bits at `step`, float32 [slow]."""
        return _slow_bits(self.seed, self.slow, check_step(self, step) // self.flip_every)

    @cached_property
    def target_network(self) -> tuple[Tensor, Tensor, Tensor]:
        """Input weights [units, bits + 1], thresholds [units], output weights [units]."""
        generator = self._draw("target")
        weights = torch.randint(2, (self.units, self.bits + 1), generator=generator) * 2.0 - 1.0
        thresholds = (self.bits + 1) * self.beta - (weights < 0).sum(1)
        return weights, thresholds, torch.randint(2, (self.units,), generator=generator) * 2.0 - 1.0

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        slow = self.concept(step).expand(self.batch_size, -1)
        fast = torch.randint(2, (self.batch_size, self.bits - self.slow), generator=self._draw("items", step)).float()
        inputs = torch.cat([slow, fast, torch.ones(self.batch_size, 1)], dim=1)
        weights, thresholds, output = self.target_network
        fired = (inputs @ weights.T > thresholds).float()
        return inputs, (fired @ output)[:, None]

    def _draw(self, *path: object) -> torch.Generator:
        return Draw(self.seed, ("stream", self.name)).at(*path).generator("bits")


@lru_cache(maxsize=4)
def _slow_bits(seed: int, slow: int, flips: int) -> Tensor:
    start = torch.randint(2, (slow,), generator=Draw(seed, ("stream", "slow bits")).generator("start"))
    flipped = torch.tensor([derived_seed(seed, "flip", k) % slow for k in range(flips)], dtype=torch.int64)
    return ((start + torch.bincount(flipped, minlength=slow)) % 2).float()
