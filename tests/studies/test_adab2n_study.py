"""The parts of the study of AdaB2N: its memory, its network, and how far running statistics are off."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from homeostat.studies.papers.plasticity.adab2n import Reservoir, divergence, network


def test_every_item_seen_is_as_likely_to_be_held_and_keeps_its_task():
    held = torch.zeros(40)
    for seed in range(400):
        memory = Reservoir(8, seed)
        for start in range(0, 40, 5):
            items = torch.arange(start, start + 5)
            memory.add(items[:, None].float(), items, task=start // 20)
        assert len(memory.held) == 8
        for inputs, target, task in memory.held:
            assert int(inputs) == int(target) and task == int(target) // 20
            held[target] += 1
    expected = 400 * 8 / 40
    assert float(((held - expected) ** 2 / expected).sum()) < 73  # chi-squared, 39 degrees of freedom: 1 in 1,000


def test_what_is_recalled_are_different_items_of_the_memory():
    memory = Reservoir(6, seed=3)
    memory.add(torch.arange(4.0)[:, None], torch.arange(4), task=2)
    inputs, targets, tasks = memory.recall(10)
    assert sorted(targets.tolist()) == [0, 1, 2, 3] and inputs[:, 0].tolist() == targets.tolist()
    assert tasks.tolist() == [2, 2, 2, 2]
    assert memory.recall(2)[0].shape == (2, 1)


def test_divergence_is_that_of_normal_distributions_of_what_a_layer_is_given():
    torch.manual_seed(0)
    model = network(nn.BatchNorm2d, (3, 4), 5)
    items = torch.randn(30, 64)
    model(items)
    found = divergence(model, items)
    assert model.training
    model.eval()
    expected, given = [], items
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.BatchNorm2d):
                values = given.double().transpose(0, 1).flatten(1)
                now = Normal(values.mean(1), values.std(1, correction=0))
                kept = Normal(module.running_mean.double(), module.running_var.double().sqrt())
                expected.append(kl_divergence(now, kept).mean())
            given = module(given)
    assert found == pytest.approx(float(sum(expected) / 2), rel=1e-6) and found > 0.01


def test_without_running_statistics_there_is_no_divergence():
    model = network(lambda channels: nn.GroupNorm(1, channels), (3, 4), 5)
    assert divergence(model, torch.randn(3, 64)) != divergence(model, torch.randn(3, 64))
