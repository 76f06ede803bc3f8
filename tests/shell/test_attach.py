"""Attaching, following steps, measuring and detaching: nothing of the user's run may change."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import warnings

import pytest
import torch
from torch import nn

import homeostat
from homeostat import MeasureOptions
from homeostat.core.errors import BadInput, BadSetting, UnknownName
from homeostat.shell.hooks.backward_hooks import BACKWARD_HOOKS
from homeostat.shell.hooks.step_hooks import STEP_HOOKS
from homeostat.vitals import DormantUnits


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(16, 8), torch.randint(0, 3, (16,))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, **kwargs) -> None:
    inputs, targets = batch()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step(**kwargs)


def fingerprint(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    moments = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    return [*model.state_dict().values(), *moments, torch.get_rng_state()]


@pytest.mark.parametrize(("options", "steps"), [({}, 200), ({"every": 7}, 200), ({"vitals": "all", "every": 2}, 4)])
def test_a_measured_run_is_bit_exact_with_the_bare_one(options, steps):
    prints = []
    for attached in (False, True):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        if attached and options.get("vitals") == "all":
            options = {**options, "probe": ((torch.ones(4, 8), torch.zeros(4).long()), nn.functional.cross_entropy)}
        run = homeostat.attach(model, optimizer, **options) if attached else None
        for _ in range(steps):
            step(model, optimizer)
        if run is not None:
            run.detach()
            assert run.steps == steps and run.vitals()["dormant-units"].keys() == {"0", "3"}
        prints.append(fingerprint(model, optimizer))
    assert all(torch.equal(a, b) for a, b in zip(*prints, strict=True))


def test_detaching_leaves_no_trace_and_copies_are_never_captured():
    hooks = (torch.autograd.backward, torch.amp.GradScaler.scale, torch.amp.GradScaler.step)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    run = homeostat.attach(model, optimizer, treatments=["continual-backprop"], every=1)
    for _ in range(3):
        step(model, optimizer)
    twin = copy.deepcopy(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    captured = {k: len(v) for k, v in run._network.observer.capture._sinks.items()}
    for other in (twin, loaded):
        other(torch.randn(4, 8)).sum().backward()
    assert {k: len(v) for k, v in run._network.observer.capture._sinks.items()} == captured
    run.detach()
    run.detach()
    for name, module in model.named_modules():
        assert not module._forward_hooks and not module._forward_pre_hooks, name
        assert vars(module).keys() == before[name].keys()
    assert hooks == (torch.autograd.backward, torch.amp.GradScaler.scale, torch.amp.GradScaler.step)
    assert not STEP_HOOKS.installed and not BACKWARD_HOOKS._originals
    pickle.dumps(model)


class Wrapped(torch.optim.SGD):
    """Calls the step of its base class, which fires torch's hooks a second time."""

    def step(self, closure=None):
        return super().step(closure)


def test_a_step_counts_once_even_through_super_and_after_one_that_raised():
    model = network()
    plain, wrapped = torch.optim.SGD(model.parameters(), 0.1), Wrapped(model.parameters(), 0.1)
    del plain
    with homeostat.attach(model, wrapped, every=1, vitals=["loss"]) as run:
        step(model, wrapped)

        def broken():
            raise ValueError("the data ran out")

        with pytest.raises(ValueError, match="ran out"):
            wrapped.step(broken)
        for _ in range(2):
            step(model, wrapped)
        assert run.steps == 3
        assert [s for s, _ in run.vitals()["loss"]["network"]] == [1, 2, 3]


def test_the_loss_is_what_backward_was_called_on_summed_and_unscaled():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with homeostat.attach(model, optimizer, every=1, vitals=["loss"]) as run:
        expected = []
        for _ in range(2):
            inputs, targets = batch()
            halves = zip(inputs.split(8), targets.split(8), strict=True)
            losses = [nn.functional.cross_entropy(model(x), y) for x, y in halves]
            for loss in losses:
                scaler.scale(loss / 2).backward()
            scaler.step(optimizer)
            scaler.update()
            expected.append(sum(float(loss.detach()) for loss in losses) / 2)
        assert [v for _, v in run.vitals()["loss"]["network"]] == pytest.approx(expected, rel=1e-5)


def test_a_skipped_scaler_step_is_no_step():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with homeostat.attach(model, optimizer, every=1, vitals=["loss"]) as run:
        for bad in (False, True, False):
            optimizer.zero_grad()
            loss = model(torch.randn(4, 8)).sum() * (float("inf") if bad else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        assert run.steps == 2
        assert run._run.facts().skipped_steps == 1 and run._run.facts().loss_scaled
        assert all(v is not None and abs(v) < 1e3 for _, v in run.vitals()["loss"]["network"])


def test_evaluation_between_steps_is_not_the_training_step():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with homeostat.attach(model, optimizer, every=1, vitals=["dead-units"]) as run:
        for _ in range(3):
            with torch.no_grad():
                model(torch.full((64, 8), -1e6))
            step(model, optimizer)
        alive = [v for points in run.vitals()["dead-units"].values() for _, v in points]
        with torch.no_grad():
            dead = (torch.relu(model[0](torch.full((1, 8), -1e6))) <= 0).float().mean()
    assert dead > 0.2 and max(alive) < float(dead)


def test_an_internal_error_ends_only_the_vital_that_failed(monkeypatch):
    def broken(self, readings):
        raise RuntimeError("a bug")

    monkeypatch.setattr(DormantUnits, "measure", broken)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with homeostat.attach(model, optimizer, every=1) as run:
        for _ in range(3):
            step(model, optimizer)
    assert "dormant-units" not in run.vitals() and len(run.vitals()["dead-units"]["0"]) == 3
    assert "a bug" in run.not_measured()["dormant-units"]


def test_several_optimizers_over_one_model_make_one_step_together():
    model = network()
    weights = [p for p in model.parameters() if p.ndim == 2]
    biases = [p for p in model.parameters() if p.ndim == 1]
    pair = [torch.optim.SGD(weights, 0.1), torch.optim.Adam(biases, 0.1)]
    with homeostat.attach(model, pair, every=1, vitals=["update-ratio"]) as run:
        for _ in range(3):
            inputs, targets = batch()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            for optimizer in pair:
                optimizer.step()
                optimizer.zero_grad()
        assert run.steps == 3
        assert {len(points) for points in run.vitals()["update-ratio"].values()} == {3}


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda m, o: homeostat.attach(nn.ReLU(), o), BadInput, "no parameters"),
        (lambda m, o: homeostat.attach(network(1), o), BadInput, "holds no parameter of this"),
        (lambda m, o: homeostat.attach(m, "adam"), BadInput, "Optimizer"),
        (lambda m, o: homeostat.attach(m, o, vitals=["dorment-units"]), UnknownName, "'dormant-units'"),
        (lambda m, o: homeostat.attach(m, o, treatments=["redoo"]), UnknownName, "'redo'"),
        (lambda m, o: homeostat.attach(m, o, treatments=["l2-init:strength=-1"]), BadSetting, "strength"),
        (lambda m, o: homeostat.attach(m, o, measure=MeasureOptions(budget=2.0)), BadSetting, "budget"),
        (
            lambda m, o: homeostat.attach(m, o, probe=((torch.ones(2, 5), None), lambda a, b: a.sum())),
            BadInput,
            "[2, 5]",
        ),
        (lambda m, o: homeostat.attach(m, o, probe=((torch.ones(2, 8), None), lambda a, b: a)), BadInput, "one number"),
        (
            lambda m, o: homeostat.attach(m, o, probe=((torch.full((2, 8), float("nan")), None), lambda a, b: a.sum())),
            BadInput,
            "NaN",
        ),
    ],
)
def test_bad_input_is_refused_in_words_and_leaves_nothing_behind(wrong, error, words):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(error) as caught:
        wrong(model, optimizer)
    assert words in str(caught.value)
    assert not STEP_HOOKS._listeners and not any(m._forward_pre_hooks for m in model.modules())


def test_a_resumed_treated_run_continues_bit_exactly():
    def build():
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        names = ["continual-backprop:replacement_rate=0.02,maturity_threshold=5", "l2-init"]
        return model, optimizer, homeostat.attach(model, optimizer, treatments=names, every=5, seed=3)

    model, optimizer, run = build()
    for _ in range(30):
        step(model, optimizer)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), run.state_dict(), torch.get_rng_state()))
    for _ in range(30):
        step(model, optimizer)
    run.detach()
    expected = fingerprint(model, optimizer)

    model, optimizer, run = build()
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    run.load_state_dict(saved[2])
    torch.set_rng_state(saved[3])
    for _ in range(30):
        step(model, optimizer)
    run.detach()
    assert all(torch.equal(a, b) for a, b in zip(expected, fingerprint(model, optimizer), strict=True))


def test_a_refused_treatment_is_told_once_and_training_goes_on():
    model = nn.LSTM(4, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = homeostat.attach(model, optimizer, treatments=["continual-backprop"])
    with pytest.warns(RuntimeWarning, match="continual-backprop"):
        model(torch.randn(5, 2, 4))[0].sum().backward()
        optimizer.step()
    assert [e.action for e in run.journal()] == ["attach", "refuse"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.randn(5, 2, 4))[0].sum().backward()
        optimizer.step()
    run.detach()
    assert run.steps == 2


def test_memory_of_a_detached_run_is_given_back():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = homeostat.attach(model, optimizer, every=1)
    step(model, optimizer)
    run.detach()
    held = id(model)
    del model, optimizer, run
    gc.collect()
    assert not any(id(o) == held and isinstance(o, nn.Sequential) for o in gc.get_objects())


def test_a_vital_is_asked_for_by_name_by_text_or_as_an_object():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    asked = [DormantUnits(tau=1.0), "hessian-trace:draws=4", "loss", "loss"]
    with homeostat.attach(model, optimizer, vitals=asked, every=1) as run:
        step(model, optimizer)
    assert {"dormant-units", "loss"} <= set(run.vitals())
    assert max(value for _, value in run.vitals()["dormant-units"]["0"]) > 0.3
    with pytest.raises(BadSetting, match="named twice"):
        homeostat.attach(model, optimizer, vitals=[DormantUnits(tau=0.5), "dormant-units"])
    with pytest.raises(BadSetting, match="vital objects"):
        homeostat.attach(model, optimizer, vitals=[DormantUnits])
