"""Seeded randomness without global state. Each replica gets the same draws as in a single run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def derived_seed(*path: object) -> int:
    """A 63-bit seed from a path of names and numbers, stable across processes and machines."""
    text = "\x1f".join(str(part) for part in path)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@dataclass(frozen=True)
class Draw:
    """Counter-based draws: the same (seed, key) gives the same numbers, whatever was drawn before.

    Args:
        seed: one seed, or one per replica. With a sequence of R seeds every draw has a leading axis [R, ...] whose
            slice r equals the draw of seed r alone.
        path: names and numbers mixed into every key, e.g. the component and the step.

    Draws are made on the CPU in float64 and then converted, so they agree across devices and dtypes.
    """

    seed: int | Sequence[int] = 0
    path: tuple[object, ...] = ()

    def at(self, *path: object) -> Draw:
        """A `Draw` with a longer path."""
        return Draw(self.seed, (*self.path, *path))

    def normal(self, key: str, like: Tensor) -> Tensor:
        """Standard normal numbers with the shape, dtype and device of `like` ([R, ...] with R seeds)."""
        return self._sample(key, like, lambda shape, g: torch.randn(shape, generator=g, dtype=torch.float64))

    def uniform(self, key: str, like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1), otherwise like `normal`."""
        return self._sample(key, like, lambda shape, g: torch.rand(shape, generator=g, dtype=torch.float64))

    def generator(self, key: str) -> torch.Generator:
        """A CPU generator for this key, for a single seed.

        Raises:
            TypeError: several seeds were given.
        """
        if not isinstance(self.seed, int):
            raise TypeError("a generator belongs to one seed; use normal() or uniform() for several replicas")
        return torch.Generator().manual_seed(derived_seed(self.seed, *self.path, key))

    def _sample(self, key: str, like: Tensor, fn: Callable[[tuple[int, ...], torch.Generator], Tensor]) -> Tensor:
        shape = tuple(like.shape)
        if isinstance(self.seed, int):
            value = fn(shape, self.generator(key))
        else:
            value = torch.stack([fn(shape[1:], Draw(s, self.path).generator(key)) for s in self.seed])
        return value.to(device=like.device, dtype=like.dtype)
