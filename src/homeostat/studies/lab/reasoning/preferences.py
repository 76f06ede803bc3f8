"""Synthetic preferences with a gold reward, and preference training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from homeostat.core.objective import Objective
from homeostat.studies.lab.reasoning.base import generator
from homeostat.studies.lab.reasoning.model import Transformer
from homeostat.studies.lab.reasoning.sampling import sample, score
from homeostat.studies.lab.reasoning.tasks import Chain


@dataclass(frozen=True)
class Pairs:
    """A preferred and a rejected answer to each prompt, and how the reference policy rates them.

    Args:
        prompts: [N, P].
        chosen, rejected: [N, L]; with their masks, bool [N, L], and reference log-probabilities, [N, L].
    """

    prompts: Tensor
    chosen: Tensor
    rejected: Tensor
    chosen_mask: Tensor
    rejected_mask: Tensor
    chosen_reference: Tensor
    rejected_reference: Tensor

    def take(self, items: Tensor) -> Pairs:
        """Some of the pairs."""
        return Pairs(**{name: value[items] for name, value in vars(self).items()})

    def batch(self, model: Transformer) -> dict[str, Tensor]:
        """What a preference objective reads, with the policy's log-probabilities."""
        n = len(self.prompts)
        logp, _ = score(model, self.prompts.repeat(2, 1), torch.cat([self.chosen, self.rejected]))
        kept = ("chosen_mask", "rejected_mask", "chosen_reference", "rejected_reference")
        return {"chosen_logp": logp[:n], "rejected_logp": logp[n:], **{name: getattr(self, name) for name in kept}}


def gold(task: Chain, prompts: Tensor, answers: Tensor) -> Tensor:
    """The gold reward: share of the steps that follow from the number written before them, [N], 0 to 1.

    A missing step, or one too many, counts as wrong.
    """
    steps = task.terms - 1
    value, right = prompts[:, 0], []
    for place in range(1, task.terms):
        wanted = task.apply(value, prompts[:, 2 * place - 1], prompts[:, 2 * place])
        value = answers[:, place - 1]
        right.append((value == wanted).float())
        value = value.clamp(max=task.modulus - 1)
    ended = (answers[:, steps] == task.end).float()
    return (torch.stack(right).sum(0) - (1 - ended)).clamp(min=0) / steps


def pairs(model: Transformer, task: Chain, prompts: int, group: int, seed: int, purpose: str) -> Pairs:
    """The answers of highest and lowest gold reward among `group` of the policy's own, to prompts where they differ.

    The policy is the reference. Answers to one prompt share much: they part where one of them slips.
    """
    source = generator(seed, "pairs", purpose)
    found = sample(model, task, task.prompts(prompts, source), group, source)
    rated = gold(task, found.prompts, found.answers).view(-1, group)
    best, worst = rated.argmax(-1), rated.argmin(-1)
    base = torch.arange(prompts) * group
    differ = rated.max(-1).values > rated.min(-1).values
    chosen, rejected = ((base + which)[differ] for which in (best, worst))
    return Pairs(
        prompts=found.prompts[chosen],
        chosen=found.answers[chosen],
        rejected=found.answers[rejected],
        chosen_mask=found.mask[chosen],
        rejected_mask=found.mask[rejected],
        chosen_reference=found.logp[chosen],
        rejected_reference=found.logp[rejected],
    )


def prefer(
    model: Transformer,
    data: Pairs,
    objective: Objective,
    seed: int,
    *,
    steps: int,
    batch: int,
    rate: float,
    schedule: Callable[[float], Mapping[str, Tensor]] = lambda progress: {},
    imitate: float = 0.0,
) -> None:
    """Train a policy in place on preferences.

    Args:
        steps, batch, rate: updates, pairs an update, learning rate of Adam (gradient norm clipped at 1).
        schedule: share of the steps done -> knobs that then differ from the objective's own.
        imitate: weight of the mean negative log-likelihood of the chosen tokens, added to the objective.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    source = generator(seed, "prefer")
    for step in range(steps):
        part = data.take(torch.randint(len(data.prompts), (batch,), generator=source))
        given = part.batch(model)
        loss = objective(given, {**objective.knobs(), **schedule(step / steps)}).values.sum()
        if imitate:
            loss = loss - imitate * (given["chosen_logp"] * part.chosen_mask).sum() / part.chosen_mask.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
