"""The grid's unit groups, written by hand, are those that tracing finds; its batches are what they are called."""

import pytest
import torch

from homeostat.shell.unit_graph.trace import trace_units
from homeostat.testing.awkward_laws import BATCHES
from homeostat.testing.grid import FROZEN, GATED, GRID, Case

BY_HAND_ONLY = {FROZEN.name: {"0"}, GATED.name: {"gate"}}
"""Groups that tracing may refuse: treatments leave out the frozen layer by themselves, and a gate is made of two."""


def told(axes) -> list:
    return [(axis.name, axis.dim, axis.owner.tolist()) for axis in axes]


@pytest.mark.parametrize("case", GRID, ids=lambda case: case.name)
def test_groups_written_by_hand_are_those_traced(case: Case):
    traced = {group.layer: group for group in trace_units(case.build(), (case.data(1)[0],)).groups}
    hand = {group.layer: group for group in case.groups}
    assert set(hand) - set(traced) <= BY_HAND_ONLY.get(case.name, set())
    for layer in set(hand) & set(traced) - BY_HAND_ONLY.get(case.name, set()):
        one, other = hand[layer], traced[layer]
        for part in ("rows", "columns", "carriers", "buffers"):
            assert told(getattr(one, part)) == told(getattr(other, part)), (layer, part)
        assert one.consumer_biases == other.consumer_biases


@pytest.mark.parametrize("case", GRID, ids=lambda case: case.name)
def test_networks_and_data_depend_on_the_seed_alone(case: Case):
    torch.manual_seed(5)
    first = case.build(3).state_dict()
    before = torch.get_rng_state()
    second = case.build(3).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(case.data(2)[0], case.data(2)[0])


def test_awkward_batches_keep_shape_and_dtype():
    batch = torch.randn(8, 1, 3, 3, dtype=torch.float64)
    for name, change in BATCHES.items():
        assert change(batch).shape == batch.shape, name
        assert change(batch).dtype == batch.dtype, name
    assert not BATCHES["not contiguous"](batch).is_contiguous()
    assert (BATCHES["one-hot"](batch).flatten(1).sum(1) == 1).all()
