"""The tasks of the study of the stability gap, and what it makes of gradients and curves."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch

from homeostat.streams import digits
from homeostat.studies.papers.continual.stability_gap import (
    ANGLES,
    FIRST,
    _shares,
    only,
    rotated,
    rotations,
    splits,
    whole_batches,
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


def test_batches_are_whole_and_pass_through_the_items():
    data = only(digits(), [0])
    batches = list(islice(whole_batches(data, 0), 6))
    assert [len(y) for _, y in batches] == [64] * 6
    rows = torch.cat([x for x, _ in batches[:2]])  # 178 items: two whole batches a pass
    assert len(rows.unique(dim=0)) == len(rows)
    assert not torch.equal(batches[0][0], batches[2][0])


def test_the_share_of_the_stable_part_is_taken_at_the_switch_and_after():
    plastic = {step: 2.0 for step in range(60)}
    stable = {step: 0.0 for step in range(60)} | {11: 0.1, 13: 1.0, 31: 0.3, 10 + FIRST + 1: 5.0}
    assert _shares(stable, plastic, [10, 30]) == pytest.approx(
        {"share at switch": 0.1, "share later": (0.5 + 0.15) / 2}
    )
