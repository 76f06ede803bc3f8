"""Elastic weight consolidation against a loop over items and tasks in float64."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from homeostat.studies.lab.elastic import Anchors


def test_the_gradient_of_the_penalty_is_that_of_the_sum_over_tasks():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    anchors, held = Anchors(model, 7.0), []
    for task in range(3):
        inputs = torch.randn(6, 3, dtype=torch.float64)
        generator = torch.Generator().manual_seed(task)
        labels = torch.multinomial(model(inputs).softmax(-1), 1, generator=generator)[:, 0]
        fisher = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
        for x, y in zip(inputs, labels, strict=True):
            model.zero_grad()
            model(x).log_softmax(-1)[y].backward()
            fisher += torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) ** 2 / 6
        held.append((fisher, parameters_to_vector(model.parameters()).detach().clone()))
        anchors.drop(inputs, torch.Generator().manual_seed(task))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
    model.zero_grad()
    anchors.penalised(lambda outputs, targets: outputs.sum() * 0)(torch.zeros(1), torch.zeros(1)).backward()
    theta = parameters_to_vector(model.parameters()).detach()
    expected = 7.0 * sum((f * (theta - old) for f, old in held), torch.zeros_like(theta))
    got = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
