"""Dials and gauges: numbers of the user's own that controllers turn and read."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import homeostat
from homeostat import CheckpointOptions, TreatOptions
from homeostat.controllers import PI, Hysteresis
from homeostat.core.dial import Dial
from homeostat.core.errors import BadInput, BadSetting, UnknownName


def network(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.optim.Adam(model.parameters(), 1e-3)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()


def ratio(start: float = 1.0, low: float = 0.5, high: float = 3.0) -> tuple[SimpleNamespace, dict[str, Dial]]:
    box = SimpleNamespace(value=start)
    return box, {"ratio": Dial(lambda: box.value, lambda v: setattr(box, "value", v), low, high, "1/step")}


def climbing(**settings: Any) -> PI:
    return PI(vital="return", knob="ratio", kp=0.0, ki=0.25, high=100.0, every=1, **settings)


def test_a_controller_reads_a_gauge_turns_a_dial_within_its_range_and_it_is_recorded_and_journalled():
    box, dials = ratio()
    reading = [2.0]
    model, optimizer = network()
    with homeostat.attach(
        model,
        optimizer,
        vitals=(),
        controllers=[climbing()],
        treat=TreatOptions(dials=dials, gauges={"return": lambda: reading[0]}),
    ) as run:
        train(model, optimizer, 3)
        assert box.value == 2.5
        train(model, optimizer, 3)
        assert box.value == 3.0  # the dial's own limit, below the controller's
        reading[0] = -2.0
        train(model, optimizer, 1)
        assert box.value == 2.5  # at once: nothing was wound up beyond the dial's limit
    assert run.vitals()["return"]["network"] == [(step, 2.0) for step in range(1, 7)] + [(7, -2.0)]
    assert [value for _, value in run.vitals()["knob"]["ratio"]] == [1.5, 2.0, 2.5, 3.0, 3.0, 3.0, 2.5]
    moves = [e for e in run.journal() if e.action == "knob"]
    assert [(e.step, e.component, e.where, e.before, e.after) for e in moves] == [(1, "pi", "ratio", 1.0, 1.5)]


@pytest.mark.parametrize("missing", [math.nan, math.inf, None, torch.tensor(math.nan)])
def test_a_missing_reading_turns_nothing(missing):
    box, dials = ratio()
    model, optimizer = network()
    with homeostat.attach(
        model,
        optimizer,
        vitals=(),
        controllers=[climbing()],
        treat=TreatOptions(dials=dials, gauges={"return": lambda: missing}),
    ) as run:
        train(model, optimizer, 3)
    assert box.value == 1.0
    assert "knob" not in run.vitals()


def test_a_dry_run_says_where_the_dial_would_go_and_leaves_it():
    box, dials = ratio()
    model, optimizer = network()
    given_gauges = {"return": lambda: 2.0}
    with homeostat.attach(
        model,
        optimizer,
        vitals=(),
        controllers=[climbing()],
        treat=TreatOptions(dials=dials, gauges=given_gauges, dry_run=True),
    ) as run:
        train(model, optimizer, 3)
    assert box.value == 1.0
    assert [(e.action, e.after) for e in run.journal()] == [("dry run", 1.5)]


def test_an_error_in_a_gauge_is_reported_once_and_training_goes_on():
    _, dials = ratio()
    model, optimizer = network()
    with homeostat.attach(
        model,
        optimizer,
        vitals=(),
        controllers=[climbing()],
        treat=TreatOptions(dials=dials, gauges={"return": lambda: 1 / 0}),
    ) as run:
        with pytest.warns(RuntimeWarning, match="ZeroDivisionError"):
            train(model, optimizer, 3)
        assert run.steps == 3


def test_a_resumed_run_turns_the_dial_back_to_where_it_was_and_goes_on_alike(tmp_path):
    def begun(resume=None):
        box, dials = ratio()
        model, optimizer = network()
        gauges = {"return": lambda: 0.5}
        run = homeostat.attach(
            model,
            optimizer,
            vitals=(),
            controllers=[climbing()],
            treat=TreatOptions(dials=dials, gauges=gauges),
            checkpoint=CheckpointOptions(resume=resume),
        )
        return box, model, optimizer, run

    box, model, optimizer, run = begun()
    train(model, optimizer, 4)
    run.save(tmp_path / "here")
    kept = box.value
    train(model, optimizer, 4, first=4)
    run.detach()
    again, model, optimizer, resumed = begun(tmp_path / "here")
    assert again.value == kept == 1.5
    train(model, optimizer, 4, first=4)
    resumed.detach()
    assert again.value == box.value == 2.0


def test_the_learning_rate_is_a_dial_like_any_other():
    model, optimizer = network()
    switch = Hysteresis(vital="return", knob="lr", low=1e-3, high=1e-2, every=1)
    with homeostat.attach(
        model, optimizer, vitals=(), controllers=[switch], treat=TreatOptions(gauges={"return": lambda: 1.0})
    ) as run:
        train(model, optimizer, 2)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-2)
    assert [e.where for e in run.journal() if e.action == "knob"] == ["lr"]


def test_unused_dials_and_gauges_change_nothing():
    states = []
    for treat in (None, TreatOptions(dials=ratio()[1], gauges={"return": lambda: 1.0})):
        model, optimizer = network()
        with homeostat.attach(model, optimizer, every=2, treat=treat):
            train(model, optimizer, 10)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_bad_dials_and_gauges_are_refused_with_the_way_out():
    model, optimizer = network()
    _, dials = ratio()
    with pytest.raises(UnknownName, match="did you mean 'ratio'"):
        homeostat.attach(
            model, optimizer, controllers=[PI(vital="loss", knob="ration")], treat=TreatOptions(dials=dials)
        )
    with pytest.raises(UnknownName, match="did you mean 'return'"):
        homeostat.attach(
            model,
            optimizer,
            controllers=[PI(vital="retrun", knob="lr")],
            treat=TreatOptions(gauges={"return": lambda: 0.0}),
        )
    with pytest.raises(BadInput, match="'lr' is the learning rate"):
        homeostat.attach(model, optimizer, treat=TreatOptions(dials={"lr": dials["ratio"]}))
    with pytest.raises(BadInput, match="'loss' is a vital"):
        homeostat.attach(model, optimizer, treat=TreatOptions(gauges={"loss": lambda: 0.0}))
    with pytest.raises(BadInput, match="needs a name without spaces"):
        homeostat.attach(model, optimizer, treat=TreatOptions(gauges={"a.b": lambda: 0.0}))
    with pytest.raises(BadInput, match="dial 'ratio' is a float"):
        homeostat.attach(model, optimizer, treat=TreatOptions(dials={"ratio": 1.0}))  # type: ignore[dict-item]
    with pytest.raises(BadSetting, match="must not be above"):
        Dial(lambda: 0.0, print, low=2.0, high=1.0)


@given(st.floats(allow_nan=True), st.floats(-5, 5), st.floats(0, 5))
def test_a_dial_never_leaves_its_range(value: float, low: float, width: float):
    box = SimpleNamespace(value=low)
    dial = Dial(lambda: box.value, lambda v: setattr(box, "value", v), low, low + width)
    if math.isfinite(value):
        assert dial.turn(value) == box.value == min(max(value, low), low + width)
    else:
        with pytest.raises(BadSetting):
            dial.turn(value)
        assert box.value == low
