"""Training many seeds at once: isolation, data order, groups, saving, refusals."""

from __future__ import annotations

import io
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fleet.solo import at_step, batches, farthest, train_alone
from homeostat.core.errors import BadInput, Refused
from homeostat.fleet import Fleet, ShuffledBatches

SEEDS = (0, 1, 2, 3, 4)


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 8), nn.LayerNorm(8),
        nn.Linear(8, 3),
    )  # fmt: skip


def _data(g: torch.Generator) -> torch.Tensor:
    return torch.randn(4, 6, generator=g)


def _images(g: torch.Generator) -> torch.Tensor:
    return torch.randn(4, 1, 6, 6, generator=g)


SGD, ADAM = partial(torch.optim.SGD, lr=0.05), partial(torch.optim.Adam, lr=1e-3)


@pytest.mark.parametrize("make", [SGD, pytest.param(ADAM, marks=pytest.mark.slow)], ids=["SGD", "Adam"])
def test_after_a_thousand_steps_a_replica_is_within_a_thousandth_of_its_solo_run(make):
    fleet = Fleet(_net, optimizer=make, seeds=SEEDS[:2], vitals=())
    given = batches(_data, SEEDS[:2], 1000)
    for t in range(1000):
        fleet.step(*at_step(given, t))
    alone, _ = train_alone(_net, make, SEEDS[1], given[1])
    assert farthest(fleet.replica(1), alone) < 1e-3


@pytest.mark.parametrize("network", [(_net, _data), (_conv, _images)], ids=["layers", "convolutions"])
@pytest.mark.parametrize("make", [SGD, ADAM], ids=["SGD", "Adam"])
def test_a_replica_that_is_not_finite_touches_no_other(network, make):
    net, data = network
    given = batches(data, SEEDS, 8)

    def trained(third: float) -> Fleet:
        knobs = {"lr": torch.tensor([0.01, 0.02, third, 0.01, 0.03])}
        fleet = Fleet(net, optimizer=make, seeds=SEEDS, knobs=knobs, vitals=())
        for t in range(8):
            fleet.step(*at_step(given, t))
        return fleet

    sick, healthy = trained(1e38), trained(0.01)
    assert not all(bool(t.isfinite().all()) for t in sick.replica(2).state_dict().values())
    for r in (0, 1, 3, 4):
        assert farthest(sick.replica(r), healthy.replica(r)) == 0.0


def test_data_come_in_the_order_of_a_data_loader():
    inputs, targets = torch.arange(22.0).reshape(11, 2), torch.arange(11)
    ours = ShuffledBatches(inputs, targets, batch=4, seeds=SEEDS)
    loaders = [
        DataLoader(TensorDataset(inputs, targets), 4, shuffle=True, generator=torch.Generator().manual_seed(seed))
        for seed in SEEDS
    ]
    for _ in range(2):
        for (x, y), *theirs in zip(ours, *loaders, strict=True):
            for r, (xs, ys) in enumerate(theirs):
                assert torch.equal(x[r], xs) and torch.equal(y[r], ys)


def test_groups_change_nothing():
    given = batches(_data, SEEDS, 6)
    knobs = {"lr": torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])}
    fleets = [Fleet(_net, optimizer=SGD, seeds=SEEDS, knobs=knobs, group=size) for size in (2, 5)]
    for t in range(6):
        losses = [fleet.step(*at_step(given, t)) for fleet in fleets]
        torch.testing.assert_close(*losses)
    for r in range(5):
        assert farthest(fleets[0].replica(r), fleets[1].replica(r)) < 1e-6


def test_losses_computed_outside_are_learned_from():
    given = batches(_data, SEEDS, 5)
    inside, outside = (Fleet(_net, optimizer=ADAM, seeds=SEEDS, group=3) for _ in range(2))
    for t in range(5):
        inputs, targets = at_step(given, t)
        inside.step(inputs, targets)
        outputs = outside(inputs)
        outside.learn(nn.functional.cross_entropy(outputs.movedim(-1, 1), targets, reduction="none").mean(1))
    for r in range(5):
        assert farthest(inside.replica(r), outside.replica(r)) < 1e-6


def test_norms_are_clipped_and_rates_are_scheduled_in_each_replica():
    given = batches(_data, SEEDS, 6)
    fleet = Fleet(_net, optimizer=SGD, seeds=SEEDS, clip_norm=0.5, vitals=())
    for t in range(6):
        fleet.turn("lr", 0.3 / (t + 1))
        fleet.step(*at_step(given, t))
    torch.manual_seed(SEEDS[3])
    alone = _net()
    optimizer = SGD(alone.parameters())
    norms = []
    for t, (inputs, targets) in enumerate(given[3]):
        optimizer.param_groups[0]["lr"] = 0.3 / (t + 1)
        optimizer.zero_grad()
        nn.functional.cross_entropy(alone(inputs), targets).backward()
        norms.append(float(nn.utils.clip_grad_norm_(alone.parameters(), 0.5)))
        optimizer.step()
    assert min(norms) < 0.5 < max(norms)
    assert farthest(fleet.replica(3), alone) < 1e-5


def test_copies_of_the_parameters_give_no_gradients():
    inputs = at_step(batches(_data, SEEDS, 1), 0)[0].requires_grad_()
    fleet = Fleet(_net, optimizer=SGD, seeds=SEEDS, group=3, vitals=())
    frozen = fleet.frozen()
    with fleet.evaluation():
        before = fleet(inputs).clone()
        assert torch.equal(frozen(inputs), before)
    fleet.learn(fleet(inputs).square().flatten(1).mean(1))
    with fleet.evaluation():
        after = fleet(inputs)
        assert torch.equal(frozen(inputs), before) and not torch.equal(after, before)
    frozen.update(0.25)
    name, present = "0.weight", fleet.parameters()["0.weight"]
    started = torch.stack([_made(seed).get_parameter(name).detach() for seed in SEEDS])
    moved = torch.cat([part[name] for part in frozen.state_dict()])
    torch.testing.assert_close(moved, 0.75 * started + 0.25 * present)
    inputs.grad = None
    fleet.detached(inputs).sum().backward()
    assert bool(inputs.grad.any()) and all(p.grad is None for s in fleet.stacks for p in s.parameters.values())


def _made(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return _net()


def test_a_saved_fleet_continues_bit_for_bit():
    given = batches(_data, SEEDS, 12)
    first, second = (Fleet(_net, optimizer=ADAM, seeds=SEEDS, every=4) for _ in range(2))
    for t in range(6):
        first.step(*at_step(given, t))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    for t in range(6, 12):
        assert torch.equal(first.step(*at_step(given, t)), second.step(*at_step(given, t)))
    for r in range(5):
        assert farthest(first.replica(r), second.replica(r)) == 0.0


def test_the_example_of_the_page_runs():
    page = (Path(__file__).resolve().parents[2] / "docs/fleet.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, names := {})
    assert names["losses"].shape == (30,) and bool(names["losses"].isfinite().all())


def test_the_global_random_stream_is_not_moved():
    before = torch.get_rng_state()
    fleet = Fleet(_net, optimizer=SGD, seeds=SEEDS, every=2)
    given = batches(_data, SEEDS, 4)
    for t in range(4):
        fleet.step(*at_step(given, t))
    assert torch.equal(before, torch.get_rng_state())


def test_what_cannot_be_lifted_is_named():
    widths = iter((4, 5, 6))
    with pytest.raises(BadInput, match=r"0\.weight"):
        Fleet(lambda: nn.Sequential(nn.Linear(3, next(widths))), optimizer=SGD, seeds=range(3))
    with pytest.raises(BadInput, match="LBFGS"):
        Fleet(_net, optimizer=torch.optim.LBFGS, seeds=range(2))
    with pytest.raises(BadInput, match="'lr' has shape"):
        Fleet(_net, optimizer=SGD, seeds=range(3), knobs={"lr": torch.ones(2)})
    with pytest.raises(Refused, match="sharpness refuses a fleet"):
        Fleet(_net, optimizer=SGD, seeds=range(2), vitals=("sharpness",))
    with pytest.raises(BadInput, match="first axis of 2"):
        Fleet(_net, optimizer=SGD, seeds=range(2))(torch.ones(3, 4, 6))
