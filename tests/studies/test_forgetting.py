"""What studies of forgetting measure, on accuracies written by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from homeostat.streams import digits
from homeostat.studies.lab.forgetting import Diary, accuracies, held_out, shifted
from homeostat.studies.papers.continual.masked_softmax_cl import calibration_error


def diary() -> Diary:
    found = Diary()
    for step, row in enumerate([[0.5], [1.0], [0.2, 0.6], [0.7, 0.8], [0.6, 0.9, 0.5], [0.4, 0.5, 0.9]], start=1):
        found.note(10 * step, row)
    return found


def test_a_diary_adds_up_to_what_the_papers_define():
    d = diary()
    assert d.ends() == [[1.0], [0.7, 0.8], [0.4, 0.5, 0.9]]
    assert d.final() == pytest.approx((0.4 + 0.5 + 0.9) / 3)
    assert d.learned() == pytest.approx((1.0 + 0.8 + 0.9) / 3)
    assert d.forgetting() == pytest.approx(((1.0 - 0.4) + (0.8 - 0.5)) / 2)
    assert d.worst_case() == pytest.approx((0.2 + 0.5 + 0.9) / 3)
    assert d.dip(100) == pytest.approx(((1.0 - 0.2) + (0.75 - 0.45)) / 2)
    assert d.dip(10) == pytest.approx(((1.0 - 0.2) + max(0.0, 0.75 - 0.75)) / 2)


def test_held_out_items_are_apart_and_belong_to_the_seed():
    learn, judge = held_out(digits(), 0)
    assert len(learn) + len(judge) == len(digits()) and len(judge) == 449
    both = torch.cat([learn.inputs, judge.inputs]).sum(0), digits().inputs.sum(0)
    torch.testing.assert_close(*both)
    assert torch.equal(held_out(digits(), 0)[1].inputs, judge.inputs)
    assert not torch.equal(held_out(digits(), 1)[1].inputs, judge.inputs)


def test_shifted_images_are_moved_by_a_pixel_with_nothing_coming_in():
    data = digits()
    many = shifted(data)
    assert len(many) == 5 * len(data) and torch.equal(many.labels[len(data) : 2 * len(data)], data.labels)
    image = data.inputs[7].reshape(8, 8)
    copies = [many.inputs[7 + k * len(data)].reshape(8, 8) for k in range(5)]
    assert torch.equal(copies[0], image)
    assert torch.equal(copies[1][:-1], image[1:]) and not copies[1][-1].any()
    assert torch.equal(copies[2][1:], image[:-1]) and not copies[2][0].any()
    assert torch.equal(copies[3][:, :-1], image[:, 1:]) and not copies[3][:, -1].any()
    assert torch.equal(copies[4][:, 1:], image[:, :-1]) and not copies[4][:, 0].any()


def test_accuracies_are_those_of_each_task():
    model = nn.Identity()
    first, second = torch.eye(3), torch.eye(3)[[0, 0, 1, 1]]
    assert accuracies(model, [(first, torch.tensor([0, 1, 0])), (second, torch.tensor([0, 1, 1, 1]))]) == [2 / 3, 0.75]


def test_calibration_error_is_the_gap_of_each_bin_weighted_by_its_items():
    """Confidences 0.62, 0.68 (one right), 0.95 (right): 2/3 |0.65 - 0.5| + 1/3 |0.95 - 1|."""
    confidence, right = torch.tensor([0.62, 0.68, 0.95], dtype=torch.float64), [True, False, True]
    logits = torch.stack([confidence.log(), (1 - confidence).log()], dim=1)
    labels = torch.tensor([0 if hit else 1 for hit in right])
    found = calibration_error(nn.Identity(), [(logits[:1], labels[:1]), (logits[1:], labels[1:])])
    assert found == pytest.approx(2 / 3 * 0.15 + 1 / 3 * 0.05)
