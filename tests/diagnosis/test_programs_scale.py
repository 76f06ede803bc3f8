"""Runs under a GradScaler on the CPU: a scale that falls to its floor is named, a search for the scale is well."""

from __future__ import annotations

import pytest
import torch
from test_programs import net, paired, points
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional as F

import homeostat


def train(loss_of, steps: int = 120, rate: float = 0.1, **settings):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), rate)
    scaler = GradScaler("cpu", **settings)
    run = homeostat.attach(model, optimizer, every=5)
    for step in range(steps):
        optimizer.zero_grad()
        scaler.scale(loss_of(step, F.cross_entropy(*paired(model, points(64, step))), model)).backward()
        scaler.step(optimizer)
        scaler.update()
    run.detach()
    return run, scaler


def never_finite(step, loss, model):
    return loss + (model[0].weight * 0).sum().sqrt()


def mostly_not_finite(step, loss, model):
    return never_finite(step, loss, model) if step % 3 else loss


def at_the_edge(step, loss, model):
    """Finite under a scale of at most one."""
    return loss * 3e38


@pytest.mark.parametrize("sick", [never_finite, mostly_not_finite, at_the_edge])
def test_a_scale_that_falls_to_its_floor_is_named(sick):
    run, _ = train(sick, rate=1e-39 if sick is at_the_edge else 0.1)
    (found,) = [f for f in run.findings() if f.condition == "loss-scale-at-its-floor"]
    assert found.severity == ("critical" if sick is never_finite else "warning")
    assert found.evidence["now"] <= 1.0 and found.evidence["first"] == 65536.0
    assert run.findings()[0].condition == "loss-scale-at-its-floor" or sick is not never_finite


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        (lambda step, loss, model: loss, {}),
        (lambda step, loss, model: loss, {"init_scale": 1.0}),
        (lambda step, loss, model: loss, {"init_scale": 2.0**40, "growth_interval": 4}),
        (lambda step, loss, model: loss * 1e35, {"rate": 1e-36}),
        (never_finite, {"enabled": False}),
    ],
)
def test_a_search_for_the_scale_is_well(loss, settings):
    run, _ = train(loss, **settings)
    assert "loss-scale-at-its-floor" not in [f.condition for f in run.findings()]


def test_a_run_whose_steps_are_all_left_out_is_diagnosed_while_it_goes_on():
    run, _ = train(never_finite, steps=15)
    assert [e for e in run.findings() if e.condition == "loss-scale-at-its-floor"]
    events = []
    model = net()
    optimizer, scaler = torch.optim.SGD(model.parameters(), 0.1), GradScaler("cpu")
    run = homeostat.attach(model, optimizer, every=5)
    for step in range(40):
        scaler.scale(never_finite(step, F.cross_entropy(*paired(model, points(64, step))), model)).backward()
        scaler.step(optimizer)
        scaler.update()
        events.append([f.condition for f in run.findings()])
    run.detach()
    assert events[20] == ["loss-scale-at-its-floor"]


def test_the_scaler_and_the_run_are_as_without_measuring():
    def weights(measured: bool):
        model = net()
        optimizer, scaler = torch.optim.SGD(model.parameters(), 0.1), GradScaler("cpu", init_scale=2.0**60)
        run = homeostat.attach(model, optimizer, every=5) if measured else None
        for step in range(60):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(*paired(model, points(64, step))) * 1e25).backward()
            scaler.step(optimizer)
            scaler.update()
        if run is not None:
            run.detach()
        return [p.detach().clone() for p in model.parameters()], scaler.state_dict()

    (plain, scale), (measured, same) = weights(False), weights(True)
    assert scale == same and all(torch.equal(a, b) for a, b in zip(plain, measured, strict=True))
