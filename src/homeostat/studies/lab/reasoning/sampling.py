"""Groups of answers from a policy, what it gives for them, and pass@k."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from homeostat.core.errors import BadInput
from homeostat.objectives import token_entropy
from homeostat.studies.lab.reasoning.model import Transformer
from homeostat.studies.lab.reasoning.tasks import Chain


@dataclass(frozen=True)
class Rollouts:
    """Answers to prompts, `group` to each, one after another.

    Args:
        prompts: [N, P]; answers: [N, L]; mask: bool [N, L], True up to and with the end.
        logp: log-probability of each token under the policy that wrote it, [N, L].
        rewards: of the verifier, [N].
        group: answers a prompt.
    """

    prompts: Tensor
    answers: Tensor
    mask: Tensor
    logp: Tensor
    rewards: Tensor
    group: int

    def split(self, parts: int) -> list[Rollouts]:
        """In equal parts, without tearing a group."""
        size = len(self.prompts) // parts
        if size % self.group or size * parts != len(self.prompts):
            raise BadInput(f"{len(self.prompts) // self.group} groups do not split into {parts} equal parts")
        tensors = {name: value.split(size) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return [Rollouts(**{name: cut[i] for name, cut in tensors.items()}, group=self.group) for i in range(parts)]


@torch.no_grad()
def sample(model: Transformer, task: Chain, prompts: Tensor, group: int, generator: torch.Generator) -> Rollouts:
    """`group` answers to each prompt, token by token at temperature 1, with a cache of keys and values."""
    asked = prompts.repeat_interleave(group, 0)
    logits, cache = model.step(prompts, None)
    logits = logits.repeat_interleave(group, 0)
    cache = [(k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)) for k, v in cache]
    alive, answers, logps, masks = torch.ones(len(asked), dtype=torch.bool), [], [], []
    for place in range(task.answer_length):
        logp = torch.log_softmax(logits[:, -1], -1)
        token = torch.multinomial(logp.exp(), 1, generator=generator)
        answers.append(torch.where(alive, token[:, 0], task.end))
        logps.append(torch.where(alive, logp.gather(-1, token)[:, 0], 0.0))
        masks.append(alive)
        alive = alive & (token[:, 0] != task.end)
        if place + 1 < task.answer_length:
            logits, cache = model.step(answers[-1][:, None], cache)
    written, mask, logp = (torch.stack(rows, -1) for rows in (answers, masks, logps))
    return Rollouts(asked, written, mask, logp, task.verify(asked, written), group)


def score(model: Transformer, prompts: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each token of the answers, and the entropy of the distribution it was drawn from, [N, L]."""
    logits = model(torch.cat([prompts, answers[:, :-1]], -1))[:, prompts.shape[1] - 1 :]
    logp = torch.log_softmax(logits, -1).gather(-1, answers[..., None])[..., 0]
    return logp, token_entropy(logits)


def pass_at_k(correct: Tensor, k: int) -> Tensor:
    """Probability that at least one of k answers is right, estimated without bias from n >= k answers a prompt.

        pass@k = 1 - C(n - c, k) / C(n, k),   c of the n right

    Chen et al. (2021), arXiv:2107.03374, eq. 1.

    Args:
        correct: 0 or 1, [*, n].
        k: how many answers are looked at.

    Returns:
        [*], 0 to 1.

    Raises:
        BadInput: k is not between 1 and n.

    >>> pass_at_k(torch.tensor([1.0, 0.0, 0.0, 0.0]), 2).item()
    0.5
    """
    n = correct.shape[-1]
    if not 1 <= k <= n:
        raise BadInput(f"pass@k needs 1 <= k <= {n} answers a prompt, got {k}")
    wrong = n - correct.to(torch.float64).sum(-1)
    return 1 - torch.stack([(wrong - i).clamp(min=0) / (n - i) for i in range(k)]).prod(0)
