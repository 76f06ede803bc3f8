"""Token-level quantities for objectives, controllers and studies: pure functions; replica axes pass through."""

from __future__ import annotations

import torch
from torch import Tensor

from homeostat.core.errors import BadInput
from homeostat.core.objective import counted, log_probability


def token_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the unmasked tokens.

    Args:
        values: [*R, N, T].
        mask: bool [*R, N, T].

    Returns:
        [*R]; NaN ("missing") without unmasked tokens.

    >>> token_mean(torch.tensor([[1.0, 3.0, 9.0]]), torch.tensor([[True, True, False]])).item()
    2.0
    """
    return counted(values, mask).sum((-2, -1)) / mask.sum((-2, -1))


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy of the next-token distribution, in nats: H = -sum_v p_v log p_v, p = softmax(logits).

    Args:
        logits: [*R, N, T, V]; -inf for an impossible token.

    Returns:
        [*R, N, T], 0 to log V.

    >>> round(token_entropy(torch.zeros(1, 1, 4)).item(), 4)
    1.3863
    """
    logp = torch.log_softmax(logits, -1)
    return -(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(-1)


def covariance(logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """Contribution of each token to the covariance of log-probability and advantage over the batch.

        cov_i = (log pi_i - mean log pi) * (A_i - mean A)

    Its mean is the covariance. If it is positive, likely tokens become likelier, so entropy falls.
    Cui et al. (2025), arXiv:2505.22617, section 3.

    Args:
        logp, advantage: [*R, N, T].
        mask: bool [*R, N, T]; the means are over the unmasked tokens.

    Returns:
        [*R, N, T], 0 where masked out.

    >>> covariance(torch.tensor([[-1.0, -3.0]]), torch.tensor([[1.0, -1.0]]), torch.tensor([[True, True]])).tolist()
    [[1.0, 1.0]]
    """
    logp, advantage = log_probability(logp, mask), counted(advantage, mask)
    centred = [x - token_mean(x, mask)[..., None, None] for x in (logp, advantage)]
    return counted(centred[0] * centred[1], mask)


def group_advantage(rewards: Tensor, *, scaled: bool = True, epsilon: float = 1e-6) -> Tensor:
    """Advantage of each rollout relative to the rollouts of its prompt: A = (r - mean r) / (std r + epsilon).

    Shao et al. (2024), arXiv:2402.03300, section 4.1.2; without the division as in Liu et al. (2025), arXiv:2503.20783.

    Args:
        rewards: [*R, P, K], K rollouts of each of P prompts.
        scaled: divide by the group's standard deviation (with K - 1).
        epsilon: added to it, so that equal rewards give advantage 0.

    Raises:
        BadInput: fewer than two rollouts per prompt.

    >>> group_advantage(torch.tensor([[1.0, 0.0, 1.0, 0.0]]), scaled=False).tolist()
    [[0.5, -0.5, 0.5, -0.5]]
    """
    if rewards.ndim < 2 or rewards.shape[-1] < 2:
        raise BadInput(f"rewards must be [prompts, rollouts] with two or more rollouts, got {tuple(rewards.shape)}")
    centred = rewards - rewards.mean(-1, keepdim=True)
    return centred / (rewards.std(-1, keepdim=True) + epsilon) if scaled else centred


def likelihood_displacement(chosen: Tensor, chosen_before: Tensor) -> Tensor:
    """Likelihood lost by preferred answers: mean of log pi_before(y_w) - log pi(y_w), in nats.

    Args:
        chosen: log-probability of each preferred answer now, [*R, N].
        chosen_before: the same at the beginning (under the reference policy).

    Returns:
        [*R]; positive: less likely than before (displaced), negative: more likely. NaN without items.

    >>> likelihood_displacement(torch.tensor([-5.0, -4.0]), torch.tensor([-3.0, -4.0])).item()
    1.0
    """
    return (chosen_before - chosen).mean(-1)
