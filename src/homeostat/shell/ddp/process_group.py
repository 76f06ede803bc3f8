"""Several processes that train one network together under DistributedDataParallel.

The ranks hold equal weights and see different batches. A treatment plans on every rank, from the same numbers: weights
and gradients are equal already, draws depend on the seed alone, and what units put out is gathered from all ranks on
the steps on which a treatment reads it. What is decided from vitals (a knob, the closed loop) the first rank decides.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from homeostat.core.errors import BadInput
from homeostat.core.signals import pass_on
from homeostat.shell.hooks.torch_internals import default_store, is_joining
from homeostat.shell.hooks.wrappers import wrappers_of

MEETING_SECONDS = 60.0
"""How long a rank waits for the others when they meet at the first forward pass."""
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_exchanges = 0


class ProcessGroup:
    """The ranks of one network.

    Args:
        wrapper: the DistributedDataParallel module.

    Attributes:
        first: this process is the one that decides.
    """

    def __init__(self, wrapper: Any) -> None:
        self._wrapper, self.group = wrapper, wrapper.process_group
        self.size = dist.get_world_size(self.group)
        self.members: list[int] = dist.get_process_group_ranks(self.group)
        self.first = dist.get_rank() == self.members[0]

    @property
    def uneven(self) -> bool:
        """Whether ranks may run out of batches one after another (`with model.join()`), so that they cannot meet."""
        return is_joining(self._wrapper)

    def exchange(self, what: Any) -> list[Any]:
        """Exchange something JSON-friendly once, off the collectives, in the order of the ranks.

        Raises:
            BadInput: a rank did not come.
        """
        global _exchanges
        seconds = MEETING_SECONDS
        _exchanges += 1
        store = dist.distributed_c10d.PrefixStore(f"homeostat/{_exchanges}", default_store())
        me = dist.get_rank()
        try:
            store.set(f"{me}", json.dumps(what))
            self._wait(store, "", seconds)
            heard = [json.loads(store.get(str(rank))) for rank in self.members]
            store.set(f"{me}/heard", "")  # nobody goes on before all have heard all
            self._wait(store, "/heard", seconds)
        except RuntimeError as error:
            _exchanges -= 1  # those who come later use this number
            for key in (f"{me}", f"{me}/heard"):
                store.delete_key(key)
            pass_on(error)
            why = "attach on every rank, with the same settings, before the first step"
            raise BadInput(
                f"not all of the {self.size} ranks of this network came within {seconds:g} s: {why}"
            ) from error
        return heard

    def _wait(self, store: Any, suffix: str, seconds: float) -> None:
        store.wait([f"{rank}{suffix}" for rank in self.members], timedelta(seconds=seconds))

    def gather(
        self, activations: Mapping[str, Tensor], layers: Iterable[str], device: torch.device
    ) -> dict[str, Tensor]:
        """The activations of all ranks, one rank after another: layer -> [N of all ranks, H].

        Args:
            activations: of this rank; a layer that it did not reach is absent, batches may differ in size.
            layers: the same on every rank.
            device: of the network.
        """
        names = sorted(layers)
        parts = [activations[name].contiguous() if name in activations else None for name in names]
        head = [n for part in parts for n in ((0, 0, 0) if part is None else (*part.shape, _DTYPES.index(part.dtype)))]
        heads = self._all(torch.tensor(head, dtype=torch.int64, device=device))
        plans = [head.reshape(-1, 3).tolist() for head in heads]
        sizes = [sum(rows * width * _DTYPES[kind].itemsize for rows, width, kind in plan) for plan in plans]
        mine = [part.reshape(-1).view(torch.uint8) for part in parts if part is not None]
        buffer = torch.zeros(max(sizes), dtype=torch.uint8, device=device)
        if mine:
            joined = torch.cat(mine)
            buffer[: len(joined)] = joined
        found: dict[str, list[Tensor]] = {}
        for plan, received in zip(plans, self._all(buffer), strict=True):
            for name, part in zip(names, _unpacked(plan, received), strict=True):
                if len(part):
                    found.setdefault(name, []).append(part)
        return {name: torch.cat(parts) for name, parts in found.items()}

    def from_first(self, value: float | None, device: torch.device) -> float | None:
        """The first rank's number; None (missing) travels as NaN."""
        box = torch.tensor(float("nan") if value is None else value, dtype=torch.float64, device=device)
        dist.broadcast(box, self.members[0], group=self.group)
        number = float(box)
        return None if number != number else number

    def share(self, things: list[Any]) -> list[Any]:
        """The first rank's list, on every rank."""
        box = [things]
        dist.broadcast_object_list(box, self.members[0], group=self.group)
        return box[0]

    def equal(self, number: int, values: Iterable[Tensor], device: torch.device) -> bool:
        """Whether a number, and the sums of tensors, are the same on every rank, bit for bit."""
        sums = [value.detach().sum(dtype=torch.float64) for value in values]
        total = torch.stack(sums).sum() if sums else torch.zeros((), dtype=torch.float64)
        mine = torch.stack([torch.tensor(number, device=device), total.to(device).view(torch.int64)])
        return all(torch.equal(mine, other) for other in self._all(mine))

    def _all(self, tensor: Tensor) -> list[Tensor]:
        received = [torch.empty_like(tensor) for _ in self.members]
        dist.all_gather(received, tensor, group=self.group)
        return received


def _unpacked(plan: list[list[int]], received: Tensor) -> Iterable[Tensor]:
    start = 0
    for rows, width, kind in plan:
        size = rows * width * _DTYPES[kind].itemsize
        yield received[start : start + size].clone().view(_DTYPES[kind]).reshape(rows, width)
        start += size


def find_ranks(model: nn.Module) -> ProcessGroup | None:
    """The ranks that train this network, or None when it is not wrapped, or there is one process only.

    Args:
        model: the network, outside of any wrapper.
    """
    if processes() == 1:
        return None
    wrappers = wrappers_of(model, nn.parallel.DistributedDataParallel)
    ranks = ProcessGroup(wrappers[0]) if wrappers else None
    return ranks if ranks is not None and ranks.size > 1 else None


def processes() -> int:
    """How many processes torch.distributed knows of; 1 without it."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among those that train together; 0 without others."""
    if processes() > 1:
        return dist.get_rank()
    text = os.environ.get("RANK", "") if os.environ.get("WORLD_SIZE", "1") != "1" else ""
    return int(text) if text.isdecimal() else 0


def world_size() -> int:
    """How many processes train together, as far as torch.distributed or the launcher says; else 1."""
    if (count := processes()) > 1:
        return count
    text = os.environ.get("WORLD_SIZE", "")
    return int(text) if text.isdecimal() else 1
