"""The butterfly-effect study: its schedule, its comparison, and that what it expects can fail."""

from itertools import pairwise

import pytest
import torch
from torch.optim import SGD

import homeostat
from homeostat.studies.lab.training import ArmSetup
from homeostat.studies.papers.dynamics.butterfly_effect import (
    COLD,
    SMALLEST,
    WARM,
    ButterflyEffectStudy,
    Lesson,
    NetworkComparison,
    falling,
)
from homeostat.studies.papers.dynamics.butterfly_effect import weights as weights_of

STUDY = ButterflyEffectStudy()


def lesson(steps=20, warmup=0):
    generator = torch.Generator().manual_seed(0)
    order = torch.randint(0, 40, (steps, 8), generator=generator)
    targets = torch.randint(0, 3, (40,), generator=generator)
    return Lesson(torch.randn(40, 5, generator=generator), targets, order, 0.5, warmup)


def test_the_rate_rises_in_the_warm_up_and_falls_to_nothing():
    rates = [lesson(10, 4).rates(step) for step in range(10)]
    assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5 * 5 / 6, 0.5 * 4 / 6, 0.25, 0.5 / 3, 0.5 / 6])
    assert lesson(10).rates(0) == 0.5 and lesson(10).rates(9) == pytest.approx(0.05)


def test_an_interrupted_lesson_is_the_whole_one():
    networks = []
    for parts in ((0, 20), (0, 7, 13, 20)):
        torch.manual_seed(0)
        model = ArmSetup("").network(5, (6,), 3)
        optimizer = SGD(model.parameters(), lr=0.5, momentum=0.9)
        for start, end in pairwise(parts):
            lesson().train(model, optimizer, start, end)
        networks.append(model)
    assert all(torch.equal(a, b) for a, b in zip(*(weights_of(m).values() for m in networks), strict=True))


def test_a_clone_compares_as_nothing_and_shuffled_units_as_nothing_once_they_are_matched():
    torch.manual_seed(0)
    model = ArmSetup("").network(5, (6, 7), 3)
    it = lesson(60)
    optimizer = SGD(model.parameters(), lr=0.5)
    initial = weights_of(model)
    it.train(model, optimizer, 0)
    compare = NetworkComparison(model, initial, it.inputs, it.targets)
    clone, _ = homeostat.twin(model, optimizer)
    found = compare(clone)
    assert found.pop("cka") == pytest.approx(1) and set(found.values()) == {0.0}
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    with torch.no_grad():
        for parameter, dim in ((clone[0].weight, 0), (clone[0].bias, 0), (clone[2].weight, 1)):
            parameter.copy_(parameter.index_select(dim, order))
    found = compare(clone)
    assert found["barrier"] > 0.01 and found["distance"] > 0.1
    assert found["aligned barrier"] == 0 and found["aligned distance"] == 0 and found["cka"] == pytest.approx(1)


@pytest.mark.parametrize("values, expected", [([3, 2, 1], 1), ([1, 2, 3], -1), ([2, 2, 2], 0), ([3, 1, 2], 1 / 3)])
def test_falling(values, expected):
    assert falling(values) == pytest.approx(expected)


def measures(barrier, aligned, warm, control=0.0, independent=2.0):
    made = lambda series: {  # noqa: E731
        f"barrier, {SMALLEST}": series,
        f"aligned barrier, {SMALLEST}": [aligned] * len(series),
        "independent barrier": independent,
        "control barrier": control,
        "control distance": control,
    }
    return {COLD: made(barrier), WARM: made([warm, 0.0])}


@pytest.mark.parametrize(
    "seen, failing",
    [
        (measures([1.5, 1.0, 0.1], 1.0, 0.7), []),
        (measures([1.5, 1.0, 0.1], 1.0, 0.7, control=1e-7), [0]),
        (measures([0.9, 0.5, 0.1], 0.5, 0.7), [1]),
        (measures([5.0, 1.0, 0.1], 2.0, 0.7), [2]),
        (measures([1.5, 1.0, 0.5], 1.0, 0.7), [3]),
        (measures([1.1, 1.3, 0.1, 1.2, 1.4, 0.2], 1.0, 0.7), [4]),
        (measures([1.5, 1.0, 0.1], 1.0, 1.6), [5]),
        (measures([1.5, 1.0, 0.1], 1.6, 0.7), [6]),
        (measures([1.5, 1.0, 0.1], 0.3, 0.7), [7]),
    ],
)
def test_every_expectation_can_fail_alone(seen, failing):
    assert [i for i, e in enumerate(STUDY.expectations) if e.effect(seen) <= e.threshold] == failing
