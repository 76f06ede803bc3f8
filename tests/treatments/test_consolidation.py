"""Elastic weight consolidation, synaptic intelligence and UPGD through the user's loop, against slow restatements.

Compared with authors' code while writing this, in float64: mohmdelsayed/upgd, core/optim/weight_upgd/first_order.py,
FirstOrderGlobalUPGD without noise, a network of 12-20-20-5 under SGD - with decay 0 the largest difference of a weight
after 200 steps is 7e-16; with decay 0.9 it is 0.003 (weights moved by up to 0.17), because the code corrects the bias
of the utility and not of its maximum.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import homeostat
from homeostat.core.treatment import Treatment
from homeostat.treatments import ElasticWeightConsolidation, SynapticIntelligence, Upgd

TASKS, STEPS, RATE = 3, 8, 0.2


def batch(task: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(100 * task + step)
    return torch.randn(12, 5, generator=g, dtype=torch.float64), torch.randint(3, (12,), generator=g)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def treated(treatment: Treatment, **attach) -> dict[str, torch.Tensor]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with homeostat.attach(model, optimizer, treatments=[treatment], vitals=(), strict=True, **attach) as run:
        for task in range(TASKS):
            if task:
                run.boundary()
            for step in range(STEPS):
                inputs, targets = batch(task, step)
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def gradients(model: nn.Module, task: int, step: int) -> dict[str, torch.Tensor]:
    inputs, targets = batch(task, step)
    model.zero_grad()
    F.cross_entropy(model(inputs), targets).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def close(found: dict[str, torch.Tensor], model: nn.Module) -> None:
    for name, value in model.named_parameters():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("elastic-weight-consolidation")
@pytest.mark.parametrize("variant", ["separate", "online"])
def test_consolidation_pulls_to_the_end_of_every_task_by_its_mean_squared_gradient(variant: str):
    """The penalties of all past tasks are kept apart here, one anchor and one importance for each."""
    strength, keep = 30.0, 0.5
    model, past = network(), []
    for task in range(TASKS):
        squares = []
        for step in range(STEPS):
            g = gradients(model, task, step)
            squares.append({n: v**2 for n, v in g.items()})
            with torch.no_grad():
                moves = {n: v.clone() for n, v in g.items()}
                for number, (fisher, anchor) in enumerate(past):
                    for n, p in model.named_parameters():
                        target = past[-1][1][n] if variant == "online" else anchor[n]
                        weight = keep ** (len(past) - 1 - number) if variant == "online" else 1.0
                        moves[n] += strength * weight * fisher[n] * (p - target)
                for n, p in model.named_parameters():
                    p -= RATE * moves[n]
        fisher = {n: sum(s[n] for s in squares) / STEPS for n in squares[0]}
        past.append((fisher, {n: p.detach().clone() for n, p in model.named_parameters()}))
    close(treated(ElasticWeightConsolidation(strength=strength, variant=variant, keep=keep)), model)


@pytest.mark.oracle("synaptic-intelligence")
def test_synaptic_intelligence_sums_the_decrease_of_the_loss_along_the_path():
    strength, damping = 0.7, 0.01
    model, anchor = network(), None
    importance = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for task in range(TASKS):
        start = {n: p.detach().clone() for n, p in model.named_parameters()}
        omega = {n: torch.zeros_like(p) for n, p in start.items()}
        for step in range(STEPS):
            g = gradients(model, task, step)
            with torch.no_grad():
                for n, p in model.named_parameters():
                    before = p.clone()
                    pull = 2 * strength * importance[n] * (p - anchor[n]) if anchor else 0
                    p -= RATE * (g[n] + pull)
                    omega[n] -= g[n] * (p - before)
        anchor = {n: p.detach().clone() for n, p in model.named_parameters()}
        for n in importance:
            importance[n] = importance[n] + omega[n].clamp(min=0) / ((anchor[n] - start[n]) ** 2 + damping)
    close(treated(SynapticIntelligence(strength=strength, damping=damping)), model)


@pytest.mark.parametrize("kind", [ElasticWeightConsolidation, SynapticIntelligence])
def test_consolidation_without_a_boundary_changes_nothing_and_says_so(kind: type[Treatment]):
    model, plain = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with homeostat.attach(model, optimizer, treatments=[kind()], vitals=()) as run:
        for step in range(3):
            for n, g in gradients(plain, 0, step).items():
                with torch.no_grad():
                    plain.get_parameter(n).sub_(RATE * g)
            optimizer.zero_grad()
            inputs, targets = batch(0, step)
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    close(dict(model.named_parameters()), plain)
    assert "run.boundary() was not called" in run.not_measured()[kind.name]


@pytest.mark.oracle("upgd")
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_upgd_gates_the_update_by_the_scaled_utility(share: float):
    decay, model = 0.8, network()
    utility = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for task in range(TASKS):
        for step in range(STEPS):
            g = gradients(model, task, step)
            with torch.no_grad():
                for n, p in model.named_parameters():
                    utility[n] = decay * utility[n] + (1 - decay) * -g[n] * p
                most = max(float(u.max()) for u in utility.values())
                for n, p in model.named_parameters():
                    gate = 1 - 1 / (1 + torch.exp(-utility[n] / most))
                    p -= RATE * g[n] * (1 - share + share * gate)
    close(treated(Upgd(decay=decay, noise=0.0, share=share)), model)


def test_the_noise_of_upgd_has_the_stated_size_where_no_weight_is_useful():
    """All gradients are 0, so every gate is 1/2 and the weights move by noise alone."""
    torch.manual_seed(0)
    model = nn.Linear(100, 100)
    start = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with homeostat.attach(model, optimizer, treatments=[Upgd(noise=0.5)], vitals=(), strict=True):
        (model(torch.ones(2, 100)).sum() * 0).backward()
        optimizer.step()
    moved = model.weight.detach() - start
    assert moved.std() == pytest.approx(RATE * 0.5 / 2, rel=0.03)
    assert abs(moved.mean()) < 0.002
