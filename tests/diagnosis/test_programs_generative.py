"""Small generative models that give up their code or make one item, and twins that do not."""

from __future__ import annotations

import math

import pytest
import torch
from test_programs import points
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

import homeostat

NAMED = {"posterior-collapse", "mode-collapse"}
"""The conditions that these programs have."""


class Coder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.mean, self.spread = nn.Linear(8, 32), nn.Linear(32, 4), nn.Linear(32, 4)
        self.leave = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 8))

    def forward(self, x):
        h = torch.tanh(self.enter(x))
        return self.mean(h), self.spread(h)


def by_hand(mean, raw):
    divergence = 0.5 * (mean.pow(2) + raw.exp() - 1 - raw).sum(1).mean()
    return mean + torch.exp(0.5 * raw) * torch.randn_like(mean), divergence


def by_deviation(mean, raw):
    std = raw.exp()
    divergence = 0.5 * (mean**2 + std**2 - 1 - 2 * raw).sum(1).mean()
    return mean + torch.randn_like(std) * std, divergence


def by_distribution(mean, raw):
    code = Normal(mean, F.softplus(raw + 0.5))
    return code.rsample(), kl_divergence(code, Normal(torch.zeros(4), torch.ones(4))).sum(1).mean()


@pytest.mark.parametrize("sample", [by_hand, by_deviation, by_distribution])
@pytest.mark.parametrize(("weight", "right"), [(0.3, []), (30.0, ["posterior-collapse"])])
def test_codes_of_a_variational_autoencoder(sample, weight: float, right: list[str]) -> None:
    torch.manual_seed(0)
    model = Coder()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    run = homeostat.attach(model, optimizer)
    for step in range(300):
        x, _ = points(64, step)
        code, divergence = sample(*model(x))
        loss = F.mse_loss(model.leave(code), x) + weight * divergence / 8
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    run.detach()
    assert [f.condition for f in run.findings() if f.severity != "info"] == right


@pytest.mark.parametrize(("spread", "right"), [(1.0, []), (0.02, ["mode-collapse"])])
def test_what_a_generator_makes(spread: float, right: list[str]) -> None:
    """The sick generator sees hardly any of its noise."""
    torch.manual_seed(0)
    maker = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    critic = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    both = nn.ModuleList([maker, critic])
    makes, judges = (torch.optim.Adam(m.parameters(), 2e-3, betas=(0.5, 0.999)) for m in (maker, critic))
    run = homeostat.attach(both, [judges, makes])
    for _ in range(400):
        angle = 2 * math.pi * torch.randint(0, 6, (64,)) / 6
        real = torch.stack([angle.cos(), angle.sin()], 1)
        made = maker(spread * torch.randn(64, 8))
        judges.zero_grad()
        (F.softplus(-critic(real)) + F.softplus(critic(made.detach()))).mean().backward()
        judges.step()
        makes.zero_grad()
        F.softplus(-critic(made)).mean().backward()
        makes.step()
    run.detach()
    assert [f.condition for f in run.findings() if f.severity != "info"][:1] == right
