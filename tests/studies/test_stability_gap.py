"""The tasks of the study of the stability gap, and what it makes of gradients and curves."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import SGD

from homeostat.streams import digits
from homeostat.studies.lab.many_seeds import fleet_of
from homeostat.studies.lab.training import ArmSetup
from homeostat.studies.papers.continual.stability_gap import (
    ANGLES,
    FIRST,
    Rehearser,
    SeedTasks,
    rotated,
    rotations,
    splits,
)


def images(data) -> torch.Tensor:
    side = math.isqrt(data.inputs.shape[1])
    return data.inputs.reshape(len(data), side, side)


def test_a_quarter_turn_is_exact_and_none_leaves_the_image():
    still, turned = images(rotated(digits(), 0)), images(rotated(digits(), 90))
    torch.testing.assert_close(still[:, 2:-2, 2:-2], digits().inputs.reshape(-1, 8, 8), atol=1e-5, rtol=0)
    assert still.shape[1:] == (12, 12) and float(still[:, :2].abs().max()) < 1e-5
    quarter = [(turned - still.rot90(k, (1, 2))).abs().max() for k in (1, 3)]
    assert float(min(quarter)) < 1e-5


def test_tasks_are_as_far_apart_as_their_angle_says():
    """The further an image is turned, the less it looks like itself."""
    apart = []
    for angle in ANGLES:
        first, second, third = rotations(angle)(digits())
        assert torch.equal(third.inputs, rotated(digits(), 2 * angle).inputs)
        apart.append(float((first.inputs - second.inputs).square().mean()))
    assert apart == sorted(apart) and torch.equal(first.labels, third.labels)


def test_splits_share_nothing_and_leave_nothing_out():
    tasks = splits(digits())
    assert [task.labels.unique().tolist() for task in tasks] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert sum(map(len, tasks)) == len(digits())


def learner(few: int = 0, steps: int = 15) -> Rehearser:
    problem = SeedTasks.of(digits(), (3, 4), splits, 3)
    fleet = fleet_of(ArmSetup("", optimizer=SGD), 64, (10,), 10, 0.1, (3, 4))
    return Rehearser(fleet, problem, steps, few)


def test_every_task_has_its_own_items_of_its_own_seed():
    problem = learner().problem
    for task, members in enumerate(problem.members):
        for seed in range(2):
            assert problem.labels[seed, members[seed]].unique().tolist() == [2 * task, 2 * task + 1]
        assert sorted(problem.exams[task][1][0].unique().tolist()) == [2 * task, 2 * task + 1]
    assert not torch.equal(problem.inputs[0], problem.inputs[1])


def test_rehearsed_items_are_of_old_tasks_and_as_few_as_were_kept():
    one = learner(few=5)
    items = torch.cat([one.old(2, step) for step in range(10)], 1)
    assert set(one.pairs(items)[1].unique().tolist()) <= {0, 1, 2, 3}
    assert all(len(row.unique()) <= 10 for row in items)


def test_old_tasks_are_evaluated_around_switches_and_gradients_at_their_start():
    one = learner()
    found = one.learn()
    assert found.ends.tolist() == [15, 30, math.inf] and found.accuracy.shape[:2] == (2, 3)
    assert found.accuracy[:, 2, found.steps <= 30].isnan().all() and found.accuracy[..., -1].isfinite().all()
    assert [len(rows) for rows in one.norms] == [FIRST, FIRST]
    shares = one.shares()
    assert shares["share at switch"].tolist() == pytest.approx(
        [float((one.norms[0][0] + one.norms[1][0])[r]) / 2 for r in range(2)]
    )
