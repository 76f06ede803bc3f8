"""One trajectory: however a loop is written, an attached run is the one written out in the open, or it is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import homeostat
from homeostat.core.component import build, components
from homeostat.core.errors import BadInput, Refused
from homeostat.core.treatment import Stage
from homeostat.shell.hooks.backward_hooks import BACKWARD_HOOKS
from homeostat.testing.loop_styles import CORE, PLAIN, Way, eager, ways
from homeostat.testing.mini_run import trial_of
from homeostat.testing.reference_run import OpenRun
from homeostat.testing.trajectories import STEPS, compare, one_trajectory

WAYS = {way.name: way for way in ways()}
STEPPING = [
    name
    for name, kind in sorted(components("treatment").items())
    if kind.stage in (Stage.MODULES, Stage.GRADIENT, Stage.UPDATE, Stage.BOUNDARY)
]


def test_the_core_ways_exist():
    assert [way.name for way in ways(thorough=False)] == [name for name in WAYS if name in CORE]
    assert len(ways(thorough=False)) == len(CORE)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_resets_are_the_same_however_the_loop_is_written(way):
    one_trajectory(trial_of(build("treatment", "continual-backprop")), [way])


@pytest.mark.parametrize(
    "thorough", [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=pytest.mark.thorough)]
)
@pytest.mark.parametrize("name", STEPPING)
def test_every_treatment_is_the_same_however_the_loop_is_written(name, thorough):
    one_trajectory(trial_of(components("treatment")[name]()), ways(thorough))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_without_a_treatment_every_loop_is_as_if_nothing_were_attached(way):
    one_trajectory(None, [way])


def test_the_law_sees_a_difference_and_a_missing_refusal():
    treatment = trial_of(build("treatment", "l2-init:strength=0.1"))
    treated, bare = (OpenRun(PLAIN, t).go(STEPS) for t in (treatment, None))
    assert "off by" in compare(treated, bare, 1e-9)
    assert not compare(treated, {k: v.clone() for k, v in treated.items()}, 0.0)
    refusal = Refused("redo", "this network", "a reason")
    assert "not refused" in compare(treated, refusal, 1.0) and "is refused" in compare(refusal, treated, 1.0)
    assert not compare(refusal, refusal, 0.0)
    with pytest.raises(AssertionError, match="off by"):
        one_trajectory(treatment, [Way("a step too many", lambda it, n: (eager(it, n), eager(it, n)), PLAIN)])  # type: ignore[func-returns-value]


# ---- placing the gradient stage


def network() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    return model, torch.optim.SGD(model.parameters(), 0.1)


def backward(model: nn.Module, factor: float = 1.0) -> None:
    (model(torch.ones(4, 6, dtype=torch.float64)).square().sum() * factor).backward()


def test_a_placed_penalty_is_added_once_whatever_is_called_again():
    model, optimizer = network()
    with homeostat.attach(model, optimizer, treatments=["l2-init:strength=1"]) as run:
        for kept in (False, True, False):
            optimizer.zero_grad(set_to_none=kept)
            backward(model)
            with torch.no_grad():
                model[0].weight += 1.0
            bare = model[0].weight.grad.clone()  # type: ignore[union-attr]
            run.before_clip()
            placed = model[0].weight.grad.clone()  # type: ignore[union-attr]
            assert not torch.equal(bare, placed)
            run.before_clip(optimizer)
            optimizer.step()
            assert torch.equal(model[0].weight.grad, placed)


def test_a_placed_penalty_is_added_anew_to_gradients_made_anew():
    model, optimizer = network()
    with homeostat.attach(model, optimizer, treatments=["l2-init:strength=1"]) as run:
        for _ in range(2):  # the first time the user changes their mind and takes no step
            optimizer.zero_grad()
            backward(model)
            with torch.no_grad():
                model[0].weight += 1.0
            bare = model[0].weight.grad.clone()  # type: ignore[union-attr]
            run.before_clip()
            assert not torch.equal(model[0].weight.grad, bare)


def test_gradients_that_are_still_scaled_are_not_placed_into():
    model, optimizer = network()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with homeostat.attach(model, optimizer, treatments=["l2-init:strength=1"]) as run:
        scaler.scale(model(torch.ones(4, 6, dtype=torch.float64)).sum()).backward()
        before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        with pytest.raises(BadInput, match="unscale_"):
            run.before_clip()
        assert all(torch.equal(a, p.grad) for a, p in zip(before, model.parameters(), strict=True))
        scaler.unscale_(optimizer)
        run.before_clip()
        scaler.step(optimizer)
    assert not BACKWARD_HOOKS._scalers


def test_each_optimizer_of_a_step_gets_the_penalty_of_its_own_parameters():
    """The second one's gradients are made after the first has stepped, and zeroed before: a penalty added to them when
    the first one stepped would be lost."""
    outcomes = []
    for attached in (True, False):
        model, _ = network()
        initial = copy.deepcopy(model)
        parts = [list(model[0].parameters()), list(model[2].parameters())]
        pair = [torch.optim.SGD(part, 0.01) for part in parts]
        run = homeostat.attach(model, pair, treatments=["l2-init:strength=0.5"], vitals=["loss"]) if attached else None
        for _ in range(4):
            for optimizer, part, layer in zip(pair, parts, (0, 2), strict=True):
                optimizer.zero_grad()
                backward(model)
                if not attached:
                    for p, start in zip(part, initial[layer].parameters(), strict=True):
                        p.grad += (p - start).detach()  # 2 * 0.5 * (theta - theta_0)
                optimizer.step()
        if run is not None:
            assert run.steps == 4
            run.detach()
        outcomes.append(model.state_dict())
    assert all(torch.allclose(outcomes[0][k], outcomes[1][k], rtol=0, atol=1e-12) for k in outcomes[0])


def test_a_parameter_of_two_optimizers_is_not_penalised_but_refused():
    model, first = network()
    second = torch.optim.SGD(model[2].parameters(), 0.1)
    with pytest.raises(Refused, match=r"2\.bias"):
        homeostat.attach(model, [first, second], treatments=["l2-init"], strict=True)


# ---- what belongs to a step


def captured(model: nn.Module, optimizer: torch.optim.Optimizer, play) -> dict[str, torch.Tensor]:
    """What one step captured: the forward passes of `play`, then a step."""
    with homeostat.attach(model, optimizer, every=1, vitals=["dead-units"]) as run:
        backward(model)
        optimizer.step()
        play()
        return run._network.observer.capture.take()


def test_evaluation_without_no_grad_is_not_part_of_the_step_but_a_step_in_evaluation_mode_is():
    model, optimizer = network()
    rows = torch.randn(5, 6, dtype=torch.float64)

    def evaluates_too():
        model(rows)
        model.eval()
        model(100 * rows)
        model.train()

    assert torch.equal(captured(model, optimizer, evaluates_too)["0"], torch.relu(model[0](rows)))
    model.eval()
    assert torch.equal(captured(model, optimizer, lambda: model(rows))["0"], torch.relu(model[0](rows)))


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_gradient_checkpointing_computes_twice_counts_once(reentrant):
    model, optimizer = network()
    rows = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)

    def twice():
        hidden = checkpoint(model[:2], rows, use_reentrant=reentrant)
        model[2](hidden).sum().backward()

    assert torch.equal(captured(model, optimizer, twice)["0"], torch.relu(model[0](rows)))


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_left_out_by_one_of_two_optimizers_keeps_the_rounds_together(fused):
    model, _ = network()
    pair = [torch.optim.Adam(layer.parameters(), 0.1, fused=fused) for layer in (model[0], model[2])]
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    inputs = torch.ones(32, 6, dtype=torch.float64)
    with homeostat.attach(model, pair, every=1, vitals=["update-ratio", "dead-units"]) as run:
        for bad in (None, 0, 1, None):
            for optimizer in pair:
                optimizer.zero_grad()
            scaler.scale(model(inputs).sum()).backward()
            if bad is not None:
                model[2 * bad].weight.grad.fill_(float("inf"))  # type: ignore[union-attr]
            for optimizer in pair:
                scaler.step(optimizer)
            scaler.update()
        assert run.steps == 4
        assert {len(points) for points in run.vitals()["update-ratio"].values()} == {4}
        assert run._network.observer.rows == 32
