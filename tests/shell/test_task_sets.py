"""Evaluation items of tasks in an attached run: which are evaluated when, and that nothing of the run is touched."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import homeostat
from homeostat import CheckpointOptions, MeasureOptions
from homeostat.core.errors import BadInput

ALL = ("task-accuracy", "stable-gradient", "plastic-gradient", "task-alignment")


class Noisy(nn.Module):
    """Draws random numbers in evaluation too, and counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Linear(12, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.last(torch.relu(self.norm(self.first(x + 0.1 * torch.randn_like(x)))))


def items(seed: int, count: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=g), torch.randint(4, (count,), generator=g)


SETS = {"a": items(1), "b": items(2), "c": items(3)}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(16, 6)), torch.randint(4, (16,))).backward()
        optimizer.step()


def trained(attached: bool, tasks=(SETS, F.cross_entropy), evaluation=lambda name: None, **options) -> Any:
    torch.manual_seed(0)
    model = Noisy()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    run = (
        homeostat.attach(model, optimizer, strict=True, measure=MeasureOptions(tasks=tasks), **options)
        if attached
        else None
    )
    train(model, optimizer, 4)
    for name in ("b", "c"):
        if run is not None:
            run.boundary(name, evaluation(name))
        train(model, optimizer, 3)
    if run is not None:
        run.detach()
    return model, optimizer, run


def steps_of(run, vital: str = "task-accuracy") -> dict[str, list[int]]:
    return {task: [step for step, _ in points] for task, points in run.vitals()[vital].items()}


def test_a_run_that_is_evaluated_at_every_step_is_bit_exact_with_the_bare_one():
    prints = []
    for attached in (False, True):
        model, optimizer, _ = trained(attached, vitals=ALL, every=1)
        moments = [v for s in optimizer.state.values() for v in s.values()]
        prints.append([*model.state_dict().values(), *moments, torch.get_rng_state()])
        assert model.training
    assert all(torch.equal(a, b) for a, b in zip(*prints, strict=True))


def test_a_task_is_evaluated_from_its_first_step_on_and_none_before():
    _, _, run = trained(True, every=1)
    assert steps_of(run) == {"a": [*range(1, 11)], "b": [*range(5, 11)], "c": [*range(8, 11)]}
    assert run.boundaries() == {4: "b", 7: "c"}
    _, _, run = trained(True, vitals=ALL, every=1)
    known = {v: [s for s, value in run.vitals()[v]["network"] if value is not None] for v in ALL[1:3]}
    assert known == {"stable-gradient": [*range(5, 11)], "plastic-gradient": [*range(1, 11)]}
    assert steps_of(run, "task-alignment") == {"a": [*range(5, 11)], "b": [*range(8, 11)]}


def test_at_a_boundary_it_is_measured_whatever_the_cadence():
    _, _, run = trained(True, every=1000)
    assert steps_of(run) == {"a": [1, 4, 7], "b": [7]}


def test_under_a_budget_it_is_measured_more_often_right_after_a_boundary():
    torch.manual_seed(0)
    model = Noisy()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    tasks = (SETS, F.cross_entropy)
    with homeostat.attach(
        model, optimizer, vitals=ALL, strict=True, measure=MeasureOptions(tasks=tasks, budget=1e-9)
    ) as run:
        train(model, optimizer, 20)
        run.boundary("b")
        train(model, optimizer, 70)
    burst = [20 + after for after in (1, 2, 4, 8, 16, 32, 64)]
    assert set(burst) <= set(steps_of(run)["a"]) and steps_of(run)["b"] == [s for s in steps_of(run)["a"] if s > 20]
    assert set(burst) <= {s for s, value in run.vitals()["stable-gradient"]["network"] if value is not None}
    assert len(steps_of(run)["a"]) < 20  # nothing but the burst and what is due before the budget is known


def test_sets_may_come_one_by_one():
    _, _, known = trained(True, every=1)
    _, _, later = trained(True, ({"a": SETS["a"]}, F.cross_entropy), SETS.get, every=1)
    assert later.vitals()["task-accuracy"] == known.vitals()["task-accuracy"]
    _, _, run = trained(True, ({}, F.cross_entropy), lambda name: SETS[name] if name == "c" else None, every=1)
    assert steps_of(run) == {"c": [8, 9, 10]}


def test_the_values_are_those_of_an_evaluation_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with homeostat.attach(model, optimizer, every=1, measure=MeasureOptions(tasks=(SETS, F.cross_entropy))) as run:
        for _ in range(3):
            train(model, optimizer, 1)
            model.eval()
            by_hand = float((model(SETS["a"][0]).argmax(-1) == SETS["a"][1]).double().mean())
            model.train()
            assert run.vitals()["task-accuracy"]["a"][-1][1] == pytest.approx(by_hand)


def test_modules_that_a_treatment_puts_in_are_evaluated_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    tasks = MeasureOptions(tasks=(SETS, F.cross_entropy))
    options = {"measure": tasks, "treatments": ["layer-norm-insertion"], "every": 1, "strict": True}
    with homeostat.attach(model, optimizer, **options) as run:
        train(model, optimizer, 2)
        model.eval()
        by_hand = float((model(SETS["a"][0]).argmax(-1) == SETS["a"][1]).double().mean())
        assert any(isinstance(m, nn.LayerNorm) for m in model.modules())
    assert run.vitals()["task-accuracy"]["a"][-1][1] == pytest.approx(by_hand)


def test_a_resumed_run_goes_on_with_the_tasks_it_had(tmp_path):
    torch.manual_seed(0)
    model = Noisy()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with homeostat.attach(model, optimizer, every=1, measure=MeasureOptions(tasks=(SETS, F.cross_entropy))) as run:
        train(model, optimizer, 2)
        run.boundary("b")
        train(model, optimizer, 1)
        run.save(tmp_path / "half")
    model = Noisy()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with homeostat.attach(
        model,
        optimizer,
        every=1,
        measure=MeasureOptions(tasks=(SETS, F.cross_entropy)),
        checkpoint=CheckpointOptions(resume=tmp_path / "half"),
    ) as run:
        train(model, optimizer, 1)
        assert {task: points[-1][0] for task, points in run.vitals()["task-accuracy"].items()} == {"a": 4, "b": 4}


def test_without_sets_nothing_is_said_unless_asked():
    model = Noisy()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with homeostat.attach(model, optimizer) as run:
        assert "task-accuracy" not in run.not_measured()
    with homeostat.attach(model, optimizer, vitals=["task-accuracy"]) as run:
        assert "tasks=" in run.not_measured()["task-accuracy"]
        with pytest.raises(BadInput, match="tasks="):
            run.boundary("b", SETS["b"])
        assert run.boundaries() == {}


X, Y = SETS["a"]
BAD = {
    "no pair": (SETS, "tasks must be"),
    "no mapping": (([(X, Y)], F.cross_entropy), "tasks must be"),
    "no loss": ((SETS, None), "tasks must be"),
    "no name": (({"": (X, Y)}, F.cross_entropy), "a name of its own"),
    "the network's name": (({"network": (X, Y)}, F.cross_entropy), "a name of its own"),
    "no targets": (({"a": X}, F.cross_entropy), "'a' must"),
    "empty": (({"a": (X[:0], Y[:0])}, F.cross_entropy), "'a' is empty"),
    "another length": (({"a": (X, Y[:3])}, F.cross_entropy), "one target for each of its 10"),
    "another width": (({"a": (X[:, :2], Y)}, F.cross_entropy), r"'a' \[10, 2\] does not run through Noisy"),
    "classes beyond the outputs": (({"a": (X, Y + 4)}, F.cross_entropy), "does not run through Noisy"),
    "not finite": (({"a": (X * torch.nan, Y)}, F.cross_entropy), "NaN"),
    "a loss for each item": ((SETS, lambda o, t: F.cross_entropy(o, t, reduction="none")), "one number"),
}


@pytest.mark.parametrize(("tasks", "said"), BAD.values(), ids=list(BAD))
def test_sets_that_cannot_be_used_are_refused_and_nothing_is_changed(tasks, said):
    model = Noisy()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = [*(t.clone() for t in model.state_dict().values()), torch.get_rng_state()]
    with pytest.raises(BadInput, match=said):
        homeostat.attach(model, optimizer, measure=MeasureOptions(tasks=tasks))
    assert all(
        torch.equal(a, b) for a, b in zip(before, [*model.state_dict().values(), torch.get_rng_state()], strict=True)
    )
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_items_that_do_not_fit_at_a_boundary_leave_the_run_as_it_was():
    model = Noisy()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    given = {name: SETS[name] for name in ("a", "b")}
    with (
        homeostat.attach(model, optimizer, every=1, measure=MeasureOptions(tasks=(given, F.cross_entropy))) as run,
        warnings.catch_warnings(),
    ):
        train(model, optimizer, 1)
        with pytest.raises(BadInput, match="given as 'b'"):
            run.boundary("another b", SETS["b"])
        run.boundary("b")
        for name, evaluation, said in (
            ("c", (X[:0], Y[:0]), "empty"),
            ("a", SETS["c"], "already"),
            ("", SETS["c"], "name"),
        ):
            with pytest.raises(BadInput, match=said):
                run.boundary(name, evaluation)
        assert run.boundaries() == {1: "b"}
        run.boundary("c", SETS["c"])
        train(model, optimizer, 1)
        assert steps_of(run)["c"] == [2]


def test_what_evaluating_costs_counts_as_measuring():
    model = Noisy()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    large = {name: items(seed, 3000) for seed, name in enumerate("abc")}
    with homeostat.attach(
        model, optimizer, vitals=["task-accuracy"], measure=MeasureOptions(tasks=(large, F.cross_entropy))
    ) as run:
        train(model, optimizer, 150)
        spent = run._run.time.seconds
        assert spent > 0
        run.boundary("b")
        assert run._run.time.seconds > spent
        train(model, optimizer, 150)
    assert len(run.vitals()["task-accuracy"]["a"]) < 30  # the budget allows no more
