"""A batch too small for a vital is made up from as many steps as it takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import homeostat


@pytest.mark.parametrize("batch", [1, 5])
def test_small_batches_are_joined_over_the_steps_before_a_sample(batch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    seen = []
    with homeostat.attach(model, optimizer, every=40, vitals=["dead-units"]) as run:
        for _ in range(160):
            inputs = torch.randn(batch, 6)
            seen.append(inputs)
            optimizer.zero_grad()
            model(inputs).sum().backward()
            optimizer.step()
    values = dict(run.vitals()["dead-units"]["0"])
    assert values[1] is None and all(values[s] is not None for s in (80, 120, 160))
    steps = -(-16 // batch)
    with torch.no_grad():
        window = torch.relu(model[0](torch.cat(seen[160 - steps : 160])))
    assert values[160] == pytest.approx(float((window.amax(0) <= 0).float().mean()))


@pytest.mark.parametrize("treatment", ["continual-backprop:replacement_rate=0", "redo:threshold=0,every=10"])
def test_a_treatment_that_reads_activations_does_not_change_what_is_measured(treatment):
    def measured(treatments):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 1))
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        with homeostat.attach(model, optimizer, treatments=treatments, every=25, vitals=["dormant-units"]) as run:
            for _ in range(50):
                optimizer.zero_grad()
                model(torch.randn(20, 6)).square().sum().backward()
                optimizer.step()
                assert len(run._network.observer._window) <= 1
        return run.vitals()["dormant-units"]

    assert measured([treatment]) == measured([])
