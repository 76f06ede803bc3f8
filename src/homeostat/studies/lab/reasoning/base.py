"""The base policy: a transformer that has imitated worked answers with slips. Made once per seed and kept."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache

import torch

from homeostat.core.random import derived_seed
from homeostat.studies.lab.reasoning.model import Shape, Transformer
from homeostat.studies.lab.reasoning.sampling import score
from homeostat.studies.lab.reasoning.tasks import Chain


@dataclass(frozen=True)
class Base:
    """How a base policy is made.

    Args:
        task: what it is trained on.
        width, layers: of the transformer.
        slip: probability of a random number in place of a result, at every step of a demonstration.
        steps, batch, rate: updates, demonstrations an update, peak learning rate (AdamW, one cycle).
    """

    task: Chain
    width: int = 96
    layers: int = 2
    slip: float = 0.25
    steps: int = 400
    batch: int = 64
    rate: float = 3e-3

    def policy(self, seed: int) -> Transformer:
        """A copy of the base policy of a seed; the same seed gives the same weights, and is trained once a process."""
        return copy.deepcopy(_trained(self, seed))


def generator(seed: int, *path: object) -> torch.Generator:
    """Randomness of its own for each purpose, so that one does not shift another."""
    return torch.Generator().manual_seed(derived_seed("reasoning", seed, *path))


@lru_cache(maxsize=8)
def _trained(base: Base, seed: int) -> Transformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed("reasoning", seed, "weights") % 2**31)
        task = base.task
        model = Transformer(Shape(task.vocabulary, task.prompt_length + task.answer_length, base.width, base.layers))
    optimizer = torch.optim.AdamW(model.parameters(), lr=base.rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, base.rate, total_steps=base.steps, pct_start=0.1)
    source = generator(seed, "demonstrations")
    for _ in range(base.steps):
        prompts = task.prompts(base.batch, source)
        logp, _ = score(model, prompts, task.demonstrations(prompts, base.slip, source))
        optimizer.zero_grad()
        (-logp.mean()).backward()
        optimizer.step()
        schedule.step()
    return model
