"""The same training replica by replica, in the plainest loop: the oracle of the fleet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
Data = Callable[[torch.Generator], Tensor]


def batches(data: Data, seeds: Sequence[int], steps: int, size: int = 4, classes: int = 3) -> list[list[Batch]]:
    """Batches of every replica, by step."""
    found = []
    for seed in seeds:
        g = torch.Generator().manual_seed(1000 + seed)
        found.append([(data(g), torch.randint(classes, (size,), generator=g)) for _ in range(steps)])
    return found


def at_step(many: list[list[Batch]], step: int) -> Batch:
    """The stacked batch of one step."""
    return torch.stack([each[step][0] for each in many]), torch.stack([each[step][1] for each in many])


def train_alone(make, make_optimizer, seed: int, given: Sequence[Batch]) -> tuple[nn.Module, list[Tensor]]:
    """One network trained alone; the network and its losses."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        optimizer = make_optimizer(model.parameters())
        losses = []
        for inputs, targets in given:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return model, losses


def farthest(model: nn.Module, other: nn.Module) -> float:
    """Largest absolute difference of two networks' parameters and buffers."""
    theirs = other.state_dict()
    return max(float((t.double() - theirs[n].double()).abs().max()) for n, t in model.state_dict().items())
