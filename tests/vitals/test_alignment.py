"""Orders of units: found again where one network is another's shuffled copy, and never worse than leaving them."""

import itertools
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.func import functional_call

from homeostat.core.errors import BadInput
from homeostat.shell.unit_graph.trace import trace_units
from homeostat.vitals import distance, match_activations, match_weights, permuted


def dense():
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)), (5,)


def conv():
    layers = OrderedDict(
        a=nn.Conv2d(1, 4, 3), norm=nn.BatchNorm2d(4), act=nn.ReLU(), b=nn.Conv2d(4, 3, 3), act2=nn.ReLU(),
        flat=nn.Flatten(), out=nn.Linear(12, 2),
    )  # fmt: skip
    return nn.Sequential(layers), (1, 6, 6)


def drawn(make, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, shape = make()
        model = model.double().eval()
        x = torch.randn(9, *shape, dtype=torch.float64)
        for value in model.parameters():
            value.data += 0.3 * torch.randn_like(value)
        for name, value in model.named_buffers():
            value.data = value.data if "num" in name else value.data + 0.3 * torch.rand_like(value)
    groups = trace_units(model, (x,)).groups
    assert len(groups) == 2
    values = {n: v.detach() for n, v in (*model.named_parameters(), *model.named_buffers())}
    return model, x, groups, values


def shuffles(groups, seed):
    generator = torch.Generator().manual_seed(seed)
    return {g.layer: torch.randperm(g.width, generator=generator) for g in groups}


@pytest.mark.parametrize("make", [dense, conv])
def test_another_order_is_the_same_function(make):
    model, x, groups, values = drawn(make, 0)
    orders = shuffles(groups, 1)
    moved = permuted(values, groups, orders)
    assert float(distance(only(values, model), only(moved, model))) > 0.1
    torch.testing.assert_close(functional_call(model, moved, (x,)), model(x))
    back = {layer: order.argsort() for layer, order in orders.items()}
    assert all(torch.equal(v, values[n]) for n, v in permuted(moved, groups, back).items())


def only(values, model):
    return {n: values[n] for n, _ in model.named_parameters()}


@pytest.mark.parametrize("make", [dense, conv])
def test_a_shuffled_copy_is_put_back(make):
    model, _, groups, values = drawn(make, 0)
    orders = shuffles(groups, 1)
    moved = permuted(values, groups, orders)
    found = match_weights(only(values, model), only(moved, model), groups)
    assert all(torch.equal(orders[layer][order], torch.arange(len(order))) for layer, order in found.items())


@pytest.mark.parametrize("seed", range(4))
def test_one_layer_is_matched_as_well_as_by_trying_every_order(seed):
    """Against all 120 orders. The authors' `weight_matching`, run aside on 20 pairs of drawn 6-8-8-3 networks without
    biases, going through the layers in the same sequence, chose the same orders 20 times.
    """
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    groups = trace_units(model, (torch.randn(4, 3),)).groups
    own, other = (
        {n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in model.named_parameters()}
        for _ in range(2)
    )
    every = (permuted(other, groups, {"0": torch.tensor(o)}) for o in itertools.permutations(range(5)))
    best = min(float(distance(own, each)) for each in every)
    found = permuted(other, groups, match_weights(own, other, groups))
    assert float(distance(own, found)) == pytest.approx(best, rel=1e-12)


def test_the_distance_never_grows():
    first, second = drawn(dense, 0), drawn(dense, 1)
    own, other = only(first[3], first[0]), only(second[3], second[0])
    found = permuted(other, first[2], match_weights(own, other, first[2]))
    assert float(distance(own, found)) < float(distance(own, other))


def test_activations_find_a_shuffle_too_and_constant_units_disturb_nobody():
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(40, 6, generator=generator)
    h[:, 2] = 1
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    assert torch.equal(match_activations({"fc": h}, {"fc": h[:, order]})["fc"], order.argsort())


def test_what_cannot_be_exchanged_is_said():
    model, _, groups, values = drawn(dense, 0)
    with pytest.raises(BadInput, match="no permutation of its 7"):
        permuted(values, groups, {"0": torch.zeros(7, dtype=torch.int64)})
    with pytest.raises(BadInput, match="not finite"):
        match_weights(only(values, model), {n: v * float("nan") for n, v in values.items()}, groups)
    rnn = nn.RNN(4, 5, batch_first=True)
    traced = trace_units(rnn, (torch.randn(3, 6, 4),)).groups
    weights = {n: p.detach() for n, p in rnn.named_parameters()}
    if traced:
        with pytest.raises(BadInput, match="make and use weight_hh_l0"):
            match_weights(weights, weights, traced)
