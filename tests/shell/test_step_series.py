"""The series of every step hold what the script itself could have written down, and cost what they may."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import get_total_norm

import homeostat
from homeostat.record import RunRecord
from homeostat.shell.observe import step_series
from homeostat.shell.observe.step_series import GRADIENT, LOSS, RATE, UPDATE, StepSeries, block_width


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))


def trained(steps: int, every: int | None = 100) -> tuple[RunRecord, dict[str, list[float]]]:
    """A run, and what its loop wrote down itself."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.5)
    seen: dict[str, list[float]] = {name: [] for name in (LOSS, GRADIENT, UPDATE, RATE)}
    run = homeostat.attach(model, optimizer, every=every)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.randn(16, 6)), torch.randint(0, 3, (16,)))
        loss.backward()
        before = [p.detach().clone() for p in model.parameters()]
        seen[LOSS].append(loss.item())
        seen[GRADIENT].append(float(get_total_norm([p.grad for p in model.parameters() if p.grad is not None])))
        seen[RATE].append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
        moved = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
        seen[UPDATE].append(float(get_total_norm(moved)))
    run.detach()
    return run._run.record, seen


@pytest.mark.parametrize("every", [1, 5, None])
def test_series_hold_the_loss_the_norms_and_the_rate_of_the_steps_they_name(every):
    record, seen = trained(60, every)
    assert [step for step, _ in record.series(LOSS, "network")] == list(range(1, 61))
    for name, values in seen.items():
        points = record.series(name, "network")
        assert [value for _, value in points] == pytest.approx([values[step - 1] for step, _ in points])
        assert len(points) == 60 or (name != LOSS and every == 5 and len(points) == 13)


def test_a_loss_that_is_no_number_is_recorded_as_missing_at_its_step():
    series = StepSeries("network", 1)
    for step, value in enumerate([1.0, float("nan"), float("inf"), 2.0], start=1):
        series.add_loss(step, torch.tensor(value))
    assert [row[3] for row in series.rows()] == [1.0, None, float("inf"), 2.0]


def test_of_a_long_run_the_largest_value_of_each_block_is_kept_at_its_own_step(monkeypatch):
    monkeypatch.setattr(step_series, "FINE", 8)
    series, losses = StepSeries("network", 1), torch.rand(200, generator=torch.Generator().manual_seed(0))
    losses[60] = float("nan")
    rows = []
    for step in range(1, 201):
        series.add_loss(step, losses[step - 1])
        rows += series.rows() if step % 37 == 0 else []
    rows += series.rows() + series.last_rows()
    steps = [row[0] for row in rows]
    assert steps == sorted(set(steps)) and len(steps) < 60
    assert all(value is None or value == losses[step - 1] for step, _, _, value in rows)
    assert [row[0] for row in rows if row[3] is None] == [61]
    assert block_width(128) == block_width(191) == 16
    for start in range(128, 192, 16):
        inside = [value for step, _, _, value in rows if start <= step < start + 16]
        assert inside == [losses[start - 1 : start + 15].max()]


def test_a_run_of_two_hundred_steps_has_two_hundred_readings_of_each_series(monkeypatch):
    monkeypatch.setattr(step_series, "DENSE_SECONDS", float("inf"))
    record, seen = trained(200, None)
    assert {name: len(record.series(name, "network")) for name in seen} == dict.fromkeys(seen, 200)


def test_series_go_on_after_a_checkpoint_as_if_there_was_none():
    whole, parts = StepSeries("network", 1), StepSeries("network", 1)
    rows = []
    for step in range(1, 30):
        for series in (whole, parts):
            series.add_loss(step, torch.tensor(float(step)))
        if step == 11:
            rows += parts.rows()
        if step in (11, 20):
            state = parts.state_dict()
            parts = StepSeries("network", 1)
            parts.load_state_dict(state)
    assert rows + parts.rows() == whole.rows()
    assert torch.equal(parts.mean_loss(), whole.mean_loss())


def test_sparse_gradients_end_the_norms_and_not_the_loss():
    model = nn.Sequential(nn.Embedding(20, 4, sparse=True), nn.Flatten(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = homeostat.attach(model, optimizer, every=1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randint(0, 20, (5, 2))).square().mean().backward()
        optimizer.step()
    run.detach()
    record = run._run.record
    assert len(record.series(LOSS, "network")) == 3 and not record.series(GRADIENT, "network")
    assert not record.failures()
