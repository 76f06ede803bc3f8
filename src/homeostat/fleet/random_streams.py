"""One random stream and one data order for each replica, equal to those of the run of that seed alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class RandomStreams:
    """The state of torch's global CPU generator of every replica.

    A solo run calls `torch.manual_seed(seed)`, makes its network and trains. The stream of replica r is in the state
    that this leaves, and advances by the same draws.

    Args:
        seeds: one per replica.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    @classmethod
    def joined(cls, many: Sequence[RandomStreams]) -> RandomStreams:
        """The streams of several together."""
        streams = cls(())
        streams.generators = [generator for each in many for generator in each.generators]
        return streams

    def make(self, make_one: Callable[[], Any]) -> list[Any]:
        """Call a function once for every replica, with its stream as torch's global one."""
        made: list[Any] = []
        for r in range(len(self.generators)):
            with self.as_global(r):
                made.append(make_one())
        return made

    @contextlib.contextmanager
    def as_global(self, replica: int) -> Iterator[None]:
        """Inside the block, torch's global generator is that of one replica."""
        generator, outside = self.generators[replica], torch.get_rng_state()
        torch.set_rng_state(generator.get_state())
        try:
            yield
        finally:
            generator.set_state(torch.get_rng_state())
            torch.set_rng_state(outside)

    def bernoulli(self, like: Tensor, probability: float) -> Tensor:
        """Zeros and ones [R, ...] in the dtype of `like`; slice r equals the draw of the solo run.

        Like torch's dropout it draws in the order of memory, so that a transposed tensor has its own order.
        """
        drawn = torch.empty_like(like, device="cpu")
        for part, generator in zip(drawn, self.generators, strict=True):
            part.bernoulli_(probability, generator=generator)
        return drawn.to(like.device)

    def state_dict(self) -> list[Tensor]:
        """The state of every stream."""
        return [generator.get_state() for generator in self.generators]

    def load_state_dict(self, state: Sequence[Tensor]) -> None:
        """Continue from `state_dict`."""
        for generator, saved in zip(self.generators, state, strict=True):
            generator.set_state(saved)


class ShuffledBatches:
    """Batches of one data set for R replicas, each in its own order.

    Replica r meets the batches of a `DataLoader` with `shuffle=True` and a generator of its own,
    `torch.Generator().manual_seed(seed)`, in the same order, epoch after epoch.

    Args:
        tensors: data of N items each: inputs [N, ...], targets [N, ...].
        batch: items per batch.
        seeds: one per replica.
        drop_last: leave out the last, smaller batch of an epoch.

    Iterating gives one epoch: tuples of tensors [R, B, ...].
    """

    def __init__(self, *tensors: Tensor, batch: int, seeds: Sequence[int], drop_last: bool = False) -> None:
        self.tensors, self.batch, self.drop_last = tensors, batch, drop_last
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __len__(self) -> int:
        count = len(self.tensors[0])
        return count // self.batch if self.drop_last else -(-count // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        count = len(self.tensors[0])
        orders: list[Tensor] = []
        for generator in self._generators:
            torch.empty((), dtype=torch.int64).random_(generator=generator)  # a DataLoader draws its workers' seed
            orders.append(torch.randperm(count, generator=generator))
        order = torch.stack(orders)
        for at in range(len(self)):
            index = order[:, at * self.batch : (at + 1) * self.batch].to(self.tensors[0].device)
            yield tuple(tensor[index] for tensor in self.tensors)
        for generator in self._generators:  # a RandomSampler draws once more before it stops
            torch.randperm(count, generator=generator)

    def state_dict(self) -> list[Tensor]:
        """The state between two epochs."""
        return [generator.get_state() for generator in self._generators]

    def load_state_dict(self, state: Sequence[Tensor]) -> None:
        """Continue from `state_dict`, with a new epoch."""
        for generator, saved in zip(self._generators, state, strict=True):
            generator.set_state(saved)
