"""Experience replay against its distribution, by exact counts and a chi-squared test."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from scipy import stats

from homeostat.core.errors import Refused
from homeostat.core.random import Draw
from homeostat.core.treatment import State, View
from homeostat.treatments import ExperienceReplay

PARAMETERS = {"w": torch.zeros(1)}


def replayed(treatment: ExperienceReplay, batches: list[tuple[torch.Tensor, torch.Tensor]], seed: int = 0):
    """The appended inputs of every call, and the state at the end."""
    state: State = treatment.init(View(step=0, parameters=PARAMETERS), treatment.knobs())
    appended = []
    for step, (inputs, targets) in enumerate(batches, 1):
        draw = Draw(seed, (treatment.name, step))
        seen = View(step=step, parameters=PARAMETERS, draw=draw, inputs=inputs, targets=targets)
        edits, state = treatment.plan(seen, state, treatment.knobs())
        appended.append(edits[0].inputs if edits else inputs[:0])
    return appended, state


def numbered(count: int, size: int, classes: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    items = torch.arange(count)
    return [(part[:, None].float(), part % classes) for part in items.split(size)]


@pytest.mark.oracle("experience-replay")
def test_the_memory_is_a_uniform_sample_of_all_items_whatever_the_batch_size():
    counts = Counter()
    for seed in range(300):
        _, state = replayed(ExperienceReplay(capacity=8), numbered(40, 1 + seed % 7), seed)
        kept = state["inputs"][:, 0].int().tolist()
        assert len(set(kept)) == 8
        counts.update(kept)
    assert stats.chisquare([counts[i] for i in range(40)]).pvalue > 1e-3


def test_every_batch_gets_its_share_of_earlier_items_and_none_of_its_own():
    appended, _ = replayed(ExperienceReplay(capacity=50, share=1.5), numbered(60, 6))
    assert [len(items) for items in appended] == [0, *[9] * 9]
    assert all(int(items.max()) < 6 * step for step, items in enumerate(appended) if len(items))


@pytest.mark.oracle("experience-replay")
def test_balanced_by_class_each_class_has_equal_room_and_rare_ones_keep_all():
    """90 items of class 0, then 30 of class 1, then 3 of class 2, in a memory of 23: 10, 10 and 3."""
    first = Counter()
    for seed in range(60):
        items = torch.arange(123)
        targets = (items >= 90).long() + (items >= 120).long()
        batches = list(zip(items[:, None].float().split(5), targets.split(5), strict=True))
        _, state = replayed(ExperienceReplay(capacity=23, balance="class"), batches, seed)
        assert sorted(Counter(state["targets"].tolist()).items()) == [(0, 10), (1, 10), (2, 3)]
        assert set(state["inputs"][state["targets"] == 2][:, 0].int().tolist()) == {120, 121, 122}
        first.update(int(i) // 10 for i in state["inputs"][state["targets"] == 0][:, 0])
    assert stats.chisquare([first[i] for i in range(9)]).pvalue > 1e-3


def test_items_that_are_not_finite_are_never_replayed():
    bad = (torch.tensor([[float("nan")], [1.0]]), torch.zeros(2))
    appended, state = replayed(ExperienceReplay(capacity=4), [bad] * 4)
    assert all(bool(items.isfinite().all()) for items in appended)
    assert state["inputs"][state["keys"] >= 0].tolist() == [[1.0]] * 4


def test_batches_that_cannot_be_kept_are_refused_with_the_reason():
    good, other = (torch.zeros(2, 3), torch.zeros(2)), (torch.zeros(2, 4), torch.zeros(2))
    with pytest.raises(Refused, match="different shape"):
        replayed(ExperienceReplay(), [good, other])
    with pytest.raises(Refused, match="class numbers"):
        replayed(ExperienceReplay(balance="class"), [good])
