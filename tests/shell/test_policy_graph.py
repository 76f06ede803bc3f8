"""Policies and values in the graph of a loss: what is read from it, and what looks like it and is none."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MultivariateNormal,
    Normal,
    TanhTransform,
    TransformedDistribution,
)
from torch.nn import functional as F

from homeostat.shell.hooks.graph_values import walk
from homeostat.shell.hooks.policy_graph import PolicyReading, read_policy
from homeostat.shell.hooks.value_graph import regressions

torch.manual_seed(0)
NET, VALUE = nn.Linear(4, 3), nn.Linear(4, 1)
X, ADVANTAGE, ACT = torch.randn(32, 4), torch.randn(32), torch.arange(32) % 3
LOG_STD = nn.Parameter(torch.full((3,), -0.5))
ENTROPY = float(Categorical(logits=NET(X)).entropy().detach().mean()) / math.log(3)
OLD = NET(X).log_softmax(1)[range(32), ACT].detach() - 0.2 * torch.rand(32)


def read(loss: torch.Tensor) -> PolicyReading | None:
    return read_policy([node for node, _ in walk(loss.grad_fn)])


def surrogate(new):
    ratio = (new - OLD).exp()
    return -torch.min(ratio * ADVANTAGE, ratio.clamp(0.8, 1.2) * ADVANTAGE).mean()


def episode():
    chances = [Categorical(NET(x).softmax(-1)) for x in X]
    return torch.stack([-c.log_prob(a) * float(r) for c, a, r in zip(chances, ACT, ADVANTAGE, strict=True)]).sum()


def normalised_later():
    logits = NET(X)
    chosen = logits.gather(-1, ACT[:, None]).squeeze(-1)
    return surrogate(chosen - torch.stack([torch.logsumexp(row, -1) for row in logits]))


DISCRETE = {
    "logits": lambda: -(Categorical(logits=NET(X)).log_prob(ACT) * ADVANTAGE).mean(),
    "probabilities": lambda: -(Categorical(probs=NET(X).softmax(1)).log_prob(ACT) * ADVANTAGE).mean(),
    "rewards of one sign": lambda: -(Categorical(logits=NET(X)).log_prob(ACT) * ADVANTAGE.abs()).mean(),
    "an episode, step by step": episode,
    "cross entropy": lambda: (F.cross_entropy(NET(X), ACT, reduction="none") * ADVANTAGE).mean(),
    "indices": lambda: surrogate(NET(X).log_softmax(1)[range(32), ACT]),
    "gather": lambda: surrogate(NET(X).log_softmax(1).gather(1, ACT[:, None]).squeeze(1)),
    "normalised later": normalised_later,
}


@pytest.mark.parametrize("name", DISCRETE)
def test_entropy_and_distance_of_discrete_policies(name: str) -> None:
    seen = read(DISCRETE[name]())
    assert seen is not None and math.isclose(seen.entropy, ENTROPY, rel_tol=1e-4)
    if name in ("indices", "gather", "normalised later"):
        log_ratio = NET(X).log_softmax(1)[range(32), ACT].detach() - OLD
        assert math.isclose(seen.kl, float((log_ratio.exp() - 1 - log_ratio).mean()), rel_tol=1e-3)


def normal(scale=None):
    return Normal(NET(X), LOG_STD.exp() if scale is None else scale)


CONTINUOUS = {
    "normal": lambda: -(normal().log_prob(X[:, :3]).sum(1) * ADVANTAGE).mean(),
    "independent": lambda: -(Independent(normal(), 1).log_prob(X[:, :3]) * ADVANTAGE).mean(),
    "several dimensions": lambda: (
        -(MultivariateNormal(NET(X), torch.diag((2 * LOG_STD).exp())).log_prob(X[:, :3]) * ADVANTAGE).mean()
    ),
    "squashed": lambda: (
        -(
            TransformedDistribution(normal(), [TanhTransform()]).log_prob(0.9 * X[:, :3].tanh()).sum(1) * ADVANTAGE
        ).mean()
    ),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_scale_of_continuous_policies(name: str) -> None:
    seen = read(CONTINUOUS[name]())
    assert seen is not None and math.isclose(seen.scale, math.exp(-0.5), rel_tol=1e-4) and math.isnan(seen.entropy)


def test_switches_are_policies() -> None:
    chance = Bernoulli(logits=NET(X))
    seen = read(-(chance.log_prob((X[:, :3] > 0).float()).sum(1) * ADVANTAGE).mean())
    assert seen is not None and math.isclose(
        seen.entropy, float(chance.entropy().detach().mean()) / math.log(2), rel_tol=1e-4
    )


OTHER = {
    "classification": lambda: F.cross_entropy(NET(X), ACT),
    "weighted classification": lambda: (F.cross_entropy(NET(X), ACT, reduction="none") * ADVANTAGE.abs()).mean(),
    "a weight of the loss": lambda: -2.0 * (0.5 * NET(X).log_softmax(1).gather(1, ACT[:, None])).mean(),
    "density of data": lambda: -normal().log_prob(X[:, :3]).mean(),
    "softmax by hand": lambda: ((NET(X) - NET(X).detach().max()).exp() * ADVANTAGE[:, None]).mean(),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_is_no_policy(name: str) -> None:
    assert read(OTHER[name]()) is None


COMPARED = {
    "mean squared error": lambda v, y: F.mse_loss(v.squeeze(1), y),
    "targets first": lambda v, y: F.mse_loss(y, v.squeeze(1)),
    "differences": lambda v, y: 0.5 * ((v.view(-1) - y) ** 2).mean(),
    "Huber": lambda v, y: F.smooth_l1_loss(v.flatten(), y),
    "a weight for each": lambda v, y: (y.abs() * (y - v.squeeze(1)) ** 2).mean(),
}


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("head", [VALUE, nn.Linear(4, 1, bias=False)])
def test_predictions_and_targets(head: nn.Module, name: str) -> None:
    values = head(X)
    (seen,) = regressions([node for node, _ in walk(COMPARED[name](values, ADVANTAGE).grad_fn)])
    assert seen.prediction is not None and seen.target is not None and not seen.chosen
    assert torch.allclose(seen.prediction, values.detach().squeeze(1), atol=1e-5)
    assert torch.allclose(seen.target, ADVANTAGE, atol=1e-5) and any(seen.leaf is p for p in head.parameters())


def test_values_of_chosen_actions() -> None:
    for chosen in (NET(X).gather(1, ACT[:, None]).squeeze(1), NET(X)[torch.arange(32), ACT]):
        (seen,) = regressions([node for node, _ in walk((chosen - ADVANTAGE).pow(2).mean().grad_fn)])
        assert seen.chosen and seen.prediction is not None
        assert torch.allclose(seen.prediction, chosen.detach(), atol=1e-5)


def test_the_square_in_a_density_is_no_regression() -> None:
    assert regressions([node for node, _ in walk(CONTINUOUS["normal"]().grad_fn)]) == []
