"""Every treatment and vital that can be lifted does in a fleet what it does in the run of each seed."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from grids import part_of
from torch import nn

import homeostat
from fleet.solo import at_step, batches, farthest
from homeostat.controllers import PI
from homeostat.core.component import components
from homeostat.core.errors import Refused
from homeostat.core.treatment import Stage, Treatment
from homeostat.fleet import Fleet
from homeostat.testing.mini_run import trial_of

SEEDS, STEPS, EVERY, TASK = (5, 6, 7), 16, 4, 7
TREATMENTS = {name: trial_of(make()) for name, make in components("treatment").items()}
LIFTED = {name: each for name, each in TREATMENTS.items() if "lifts" not in each.declared}
MOMENTUM = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def _net() -> nn.Module:
    layers = (nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3))
    return nn.Sequential(*layers).double()


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)
    ).double()  # fmt: skip


def _data(g: torch.Generator) -> torch.Tensor:
    return torch.randn(16, 6, generator=g, dtype=torch.float64)


def _images(g: torch.Generator) -> torch.Tensor:
    return torch.randn(16, 1, 6, 6, generator=g, dtype=torch.float64)


IMAGES = pytest.param((_conv, _images), marks=pytest.mark.thorough)


def _alone(net, optimizer, treatments: list[Treatment], seed: int, given, controllers=()):
    """The run of one seed with `homeostat.attach`; the network, its vitals, and the outputs of an evaluation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = net()
        made = optimizer(model.parameters())
        with homeostat.attach(
            model, made, treatments=treatments, controllers=controllers, every=EVERY, seed=seed, strict=True
        ) as run:
            criterion = run.loss(nn.functional.cross_entropy)
            for t, (inputs, targets) in enumerate(given):
                if t and t % TASK == 0:
                    run.boundary(f"task {t}")
                made.zero_grad()
                criterion(model(inputs), targets).backward()
                made.step()
            with run.evaluation(), torch.no_grad():
                model.eval()
                outputs = model(given[0][0])
                model.train()
            return model, run.vitals(), outputs


@pytest.mark.parametrize("network", [(_net, _data), IMAGES], ids=["layers", "convolutions"])
@pytest.mark.parametrize("name", part_of(LIFTED))
def test_each_replica_is_treated_and_measured_as_its_solo_run(name, network):
    (net, data), treatment = network, LIFTED[name]
    if treatment.needs_batch_norm and net is _conv:
        pytest.skip("it needs batch normalisation")
    fleet = Fleet(net, optimizer=MOMENTUM, seeds=SEEDS, treatments=[treatment], every=EVERY)
    given = batches(data, SEEDS, STEPS, size=16)
    for t in range(STEPS):
        if t and t % TASK == 0:
            fleet.boundary()
        fleet.step(*at_step(given, t))
    with fleet.evaluation():
        outputs = fleet(at_step(given, 0)[0])
    series = fleet.vitals()
    for r, seed in list(enumerate(SEEDS))[1:]:
        alone, vitals, expected = _alone(net, MOMENTUM, [treatment], seed, given[r])
        assert farthest(fleet.replica(r), alone) < 1e-9
        torch.testing.assert_close(outputs[r], expected)
        measured = {vital: layers for vital, layers in vitals.items() if vital in series}
        assert {"dormant-units", "effective-rank", "gradient-norm", "loss", "weight-norm"} <= measured.keys()
        for vital, layers in measured.items():
            for layer, points in layers.items():
                for (step, value), (at, ours) in zip(points, series[vital][layer], strict=True):
                    found = float(ours[r])
                    assert step == at
                    assert found != found if value is None else found == pytest.approx(value, rel=1e-5), (vital, layer)


def test_a_knob_has_a_value_per_replica():
    name, rates = "continual-backprop", torch.tensor([0.0, 0.02, 0.1])
    treatment = LIFTED[name]
    fleet = Fleet(
        _net, optimizer=MOMENTUM, seeds=SEEDS, treatments=[treatment], knobs={f"{name}.replacement_rate": rates}
    )
    given = batches(_data, SEEDS, STEPS, size=16)
    for t in range(STEPS):
        fleet.step(*at_step(given, t))
    for r, seed in enumerate(SEEDS):
        own = type(treatment)(**{**treatment.settings(), "replacement_rate": float(rates[r])})
        alone, _, _ = _alone(_net, MOMENTUM, [own], seed, given[r])
        assert farthest(fleet.replica(r), alone) < 1e-9


@pytest.mark.parametrize("knob", ["lr", "l2-init.strength"])
def test_a_controller_turns_the_knob_of_each_replica(knob):
    control = [PI(vital="gradient-norm", knob=knob, set_point=0.3, kp=0.02, ki=0.01, high=0.2, every=EVERY)]
    penalty = [LIFTED["l2-init"]]
    fleet = Fleet(_net, optimizer=MOMENTUM, seeds=SEEDS, treatments=penalty, controllers=control, every=EVERY, group=2)
    given = batches(_data, SEEDS, STEPS, size=16)
    for t in range(STEPS):
        fleet.step(*at_step(given, t))
    alone = [_alone(_net, MOMENTUM, penalty, seed, given[r], control)[0] for r, seed in enumerate(SEEDS)]
    assert max(farthest(fleet.replica(r), each) for r, each in enumerate(alone)) < 1e-7
    untouched, _, _ = _alone(_net, MOMENTUM, penalty, SEEDS[0], given[0])
    assert farthest(alone[0], untouched) > 1e-4


def test_small_batches_are_collected_until_a_vital_can_be_measured():
    fleet = Fleet(_net, optimizer=MOMENTUM, seeds=SEEDS, vitals=("dormant-units",), every=20)
    given = batches(lambda g: _data(g)[:4], SEEDS, 60, size=4)
    for t in range(60):
        fleet.step(*at_step(given, t))
    steps = [(step, bool(values.isfinite().all())) for step, values in fleet.vitals()["dormant-units"]["0"]]
    assert steps == [(1, False), (20, True), (40, True), (60, True)]


@pytest.mark.parametrize("name", sorted(TREATMENTS.keys() - LIFTED.keys()))
def test_a_treatment_that_does_not_lift_is_refused_with_its_reason(name):
    treatment = TREATMENTS[name]
    with pytest.raises(Refused, match=f"{name} refuses a fleet") as refusal:
        Fleet(_net, optimizer=MOMENTUM, seeds=SEEDS, treatments=[treatment])
    assert treatment.declared["lifts"] in str(refusal.value)


def test_every_stage_that_lifts_is_covered():
    stages = {treatment.stage for treatment in LIFTED.values()}
    assert stages == {Stage.LOSS, Stage.GRADIENT, Stage.UPDATE, Stage.BOUNDARY, Stage.EVALUATION}
