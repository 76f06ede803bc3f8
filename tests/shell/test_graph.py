"""The unit graph on the grid of nasty networks: who is paired with which columns, who is refused and why."""

from __future__ import annotations

import functools
import pickle
import random

import nets
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from homeostat.core.units import Axis
from homeostat.shell.unit_graph.module_roles import tensors_in
from homeostat.shell.unit_graph.pinned_model import PinnedCopy
from homeostat.shell.unit_graph.trace import UnitGraph, observation_taps, trace_units, tracing
from homeostat.treatments.normalization.layer_norm import with_norm

R = range
# net -> layer -> (columns: consumer weight -> owners, nonlinearity)
PAIRED: dict[str, dict[str, tuple[dict[str, list[int]], str]]] = {
    "mlp": {"0": ({"2.weight": [*R(7)]}, "relu"), "2": ({"4.weight": [*R(5)]}, "tanh")},
    "functional_mlp": {"one": ({"two.weight": [*R(7)]}, "relu"), "two": ({"out.weight": [*R(5)]}, "gelu")},
    "late_first": {"b": ({"a.weight": [*R(5)]}, "relu"), "c": ({"b.weight": [*R(7)]}, "relu")},
    "norm_before": {"0": ({"3.weight": [*R(7)]}, "relu")},
    "norm_after": {"0": ({"3.weight": [*R(7)]}, "relu")},
    "conv_net": {"0": ({"4.weight": [*R(4)]}, "relu"), "4": ({"8.weight": [c for c in R(5) for _ in R(4)]}, "relu")},
    "functional_conv_net": {
        "one": ({"two.weight": [*R(4)]}, "relu"),
        "two": ({"out.weight": [c for c in R(5) for _ in R(4)]}, "leaky_relu"),
    },
    "residual_mlp": {"up": ({"down.weight": [*R(9)]}, "gelu")},
    "zero_residual": {"up": ({"down.weight": [*R(9)]}, "gelu")},
    "resnet": {"block.conv1": ({"block.conv2.weight": [*R(6)]}, "relu")},
    "encoder_layer": {"layer.linear1": ({"layer.linear2.weight": [*R(12)]}, "relu")},
    "gpt": {
        "block.v": ({"block.o.weight": [*R(8)]}, "linear"),
        "block.fc": ({"block.proj.weight": [*R(12)]}, "gelu"),
    },
    "gated_mlp": {"gate": ({"down.weight": [*R(7)]}, "unknown")},
    "recurrent": {
        "inp": ({"gru.weight_ih_l0": [*R(6)]}, "relu"),
        "gru": ({"lstm.weight_ih_l0": [*R(5)], "gru.weight_hh_l0": [*R(5)]}, "unknown"),
        "lstm": ({"mid.weight": [*R(7)], "lstm.weight_hh_l0": [*R(7)]}, "unknown"),
        "mid": ({"out.weight": [*R(5)]}, "relu"),
    },
    "embedding_mlp": {"one": ({"out.weight": [*R(7)]}, "tanh")},
    "tied_functional_head": {"one": ({"two.weight": [*R(7)]}, "relu")},
    "two_heads": {"trunk": ({"policy.weight": [*R(7)], "value.weight": [*R(7)]}, "tanh")},
    "distribution_head": {"trunk": ({"mean.weight": [*R(7)]}, "tanh")},
    "branches": {
        "left": ({"out.weight": [2, 1, 0, -1, -1, -1, -1, -1]}, "relu"),
        "right": ({"out.weight": [-1, -1, -1, 0, 1, 2, 3, 4]}, "sigmoid"),
    },
    "depthwise": {
        "0": ({"4.weight": [*R(4)]}, "relu"),
        "4": ({"8.weight": [*R(6)]}, "relu"),
    },
    "dropout": {"0": ({"3.weight": [*R(7)]}, "relu"), "3": ({"6.weight": [*R(5)]}, "elu")},
    "dict_input": {"one": ({"out.weight": [*R(7)]}, "relu")},
    "training_head": {"one": ({"out.weight": [*R(7)], "aux.weight": [*R(7)]}, "relu")},
    "permuted": {"conv": ({"mid.weight": [*R(5)]}, "silu")},
}
# net -> layer -> words of the reason
REFUSED: dict[str, dict[str, str]] = {
    "mlp": {"4": "output"},
    "functional_mlp": {"out": "output"},
    "late_first": {"a": "output"},
    "norm_before": {"3": "output"},
    "norm_after": {"3": "output"},
    "conv_net": {"8": "output"},
    "functional_conv_net": {"out": "output"},
    "residual_mlp": {"stem": "combined with down", "down": "combined with stem", "head": "output"},
    "zero_residual": {"stem": "combined with down", "down": "combined with stem", "head": "output"},
    "input_residual": {"one": "combined with input 0", "out": "output"},
    "resnet": {"stem": "combined with block.conv2", "block.conv2": "combined with stem", "head": "output"},
    "encoder_layer": {
        "emb": "table", "layer.self_attn.in_proj_weight[0:8]": "only weigh those of",
        "layer.self_attn.in_proj_weight[8:16]": "only weigh those of",
        "layer.self_attn.in_proj_weight[16:24]": "no module at which", "layer.self_attn.out_proj": "combined with emb",
        "layer.linear2": "combined with emb, layer.self_attn.out_proj", "head": "output",
    },
    "gpt": {
        "emb": "table", "block.q": "weigh those of block.k, block.v", "block.k": "weigh those of block.q, block.v",
        "block.o": "combined with emb", "block.proj": "emb, block.o", "head": "shared with emb.weight",
    },
    "gated_mlp": {"down": "output"},
    "recurrent": {"out": "output"},
    "embedding_mlp": {"emb": "table", "out": "output"},
    "tied_functional_head": {"emb": "table", "two": "also used by emb", "emb.weight": "output"},
    "called_twice": {"one": "same is called 2 times", "same": "called 2 times", "out": "output"},
    "siamese": {"one": "same is called 2 times", "two": "same is called 2 times", "same": "called 2 times"},
    "two_heads": {"policy": "output", "value": "output"},
    "distribution_head": {"mean": "output"},
    "exposed": {"one": "output", "out": "output"},
    "branches": {"out": "output"},
    "unused_units": {"one": "use 2 of its 7 units", "out": "output"},
    "weight_norm": {"one": "feeds two, but its weight is computed", "two": "weight is computed", "out": "output"},
    "depthwise": {"8": "output"},
    "dropout": {"6": "output"},
    "dict_input": {"out": "output"},
    "permuted": {"mid": "use the same columns of out in turn", "out": "output"},
    "training_head": {"out": "output", "aux": "output"},
    "frozen": {"0": "feeds 2, but its weight is frozen", "2": "frozen", "4": "output"},
    "hidden_switch": {"one": "mixed with each other", "out": "output"},
    "bare_weights": {"one": "no module at which", "w": "output"},
    "raises": {"one": "no forward today"},
    "noisy": {"one": "different values for the same input", "out": "different values"},
}  # fmt: skip


@functools.cache
def traced(name: str) -> tuple[nn.Module, tuple, UnitGraph]:
    model, inputs = nets.build(name)
    return model, inputs, trace_units(model, inputs)


@pytest.mark.parametrize("name", nets.NETS)
def test_exactly_these_layers_are_paired_with_exactly_these_columns(name: str) -> None:
    model, _, trace = traced(name)
    found = {g.layer: ({c.name: c.owner.tolist() for c in g.columns}, g.nonlinearity) for g in trace.groups}
    assert found == PAIRED.get(name, {})
    assert trace.refused.keys() == REFUSED[name].keys()
    for layer, words in REFUSED[name].items():
        assert words in trace.refused[layer], (layer, trace.refused[layer])
    parameters = dict(model.named_parameters())
    for group in trace.groups:
        axes = (*group.rows, *group.columns, *group.carriers)
        assert all(axis.owner.numel() == axis.groups * parameters[axis.name].shape[axis.dim] for axis in axes)
        assert group.layer in trace.taps and group.weight.name.startswith(f"{group.layer}.weight")
        assert len(group.consumer_biases) == len(group.columns)
        assert all(bias is None or bias in parameters for bias in group.consumer_biases)


def test_carriers_and_buffers_belong_to_the_units_that_pass_the_norm() -> None:
    group = traced("conv_net")[2].group("0")
    assert group is not None
    assert [a.name for a in group.carriers] == ["1.weight", "1.bias"]
    assert [a.name for a in group.buffers] == ["1.running_mean", "1.running_var"]
    right = traced("branches")[2].group("right")
    assert right is not None and [a.name for a in right.carriers] == ["norm.weight", "norm.bias"]


def everything(model: nn.Module) -> list[Tensor]:
    return [t.detach().clone() for t in model.state_dict(keep_vars=True).values()]


@pytest.mark.parametrize("name", nets.NETS)
def test_tracing_leaves_model_inputs_and_random_streams_as_they_are(name: str) -> None:
    model, inputs = nets.build(name)
    model.train()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    torch.manual_seed(3), random.seed(3), np.random.seed(3)  # noqa: NPY002
    before, data = everything(model), [t.clone() for t in tensors_in(inputs)]
    keys = {path: sorted(vars(m)) for path, m in model.named_modules()}
    trace_units(model, inputs)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(model), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(data, tensors_in(inputs), strict=True))
    assert keys == {path: sorted(vars(m)) for path, m in model.named_modules()}
    assert all(m.training for m in model.modules()) and not calls and not tracing()
    drawn = (float(torch.rand(())), random.random(), np.random.rand())  # noqa: NPY002
    torch.manual_seed(3), random.seed(3), np.random.seed(3)  # noqa: NPY002
    assert drawn == (float(torch.rand(())), random.random(), np.random.rand())  # noqa: NPY002


def test_refused_layers_whose_units_are_readable_still_have_taps() -> None:
    assert {"0", "2"} <= traced("frozen")[2].taps.keys()
    assert "stem" not in traced("residual_mlp")[2].taps


def test_bad_calls_give_a_reason_and_never_an_error() -> None:
    model, _ = nets.build("mlp")
    for args in ((), (torch.randn(6, 9),), ("text",), (None,)):
        trace = trace_units(model, args)
        assert not trace.groups and trace.refused.keys() == {"0", "2", "4"}
        assert all("example call failed" in why for why in trace.refused.values())
    assert not trace_units(nn.ReLU(), (torch.randn(3),)).groups
    assert "more than 0 s" in trace_units(model, (torch.randn(6, 4),), budget=0.0).refused["0"]


def test_an_adjacency_matrix_may_not_be_cut() -> None:
    def run(m: nets.Net2, x: Tensor, graph: Tensor) -> Tensor:
        return m.out(graph @ torch.relu(m.one(x)))

    model, inputs = nets.made(run, torch.randn(9, 4), torch.ones(5, 9), one=nn.Linear(4, 7), out=nn.Linear(7, 3))
    assert [g.layer for g in trace_units(model, inputs).groups] == ["one"]


def test_a_forward_that_closes_over_the_original_is_not_run() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    first, norm, act, last = model
    model.forward = lambda x: last(act(norm(first(x))))  # type: ignore[method-assign]
    before = everything(model)
    trace = trace_units(model, (torch.randn(6, 4),))
    assert not trace.groups and "closure" in trace.refused["0"]
    assert all(torch.equal(a, b) for a, b in zip(before, everything(model), strict=True))
    model(torch.randn(6, 4))


def test_inside_autocast_the_copy_runs_in_full_precision() -> None:
    model, inputs = nets.build("mlp")
    with torch.autocast("cpu", torch.bfloat16):
        trace = trace_units(model, inputs)
        assert torch.is_autocast_enabled("cpu")
    assert [(g.layer, g.nonlinearity) for g in trace.groups] == [("0", "relu"), ("2", "tanh")]


def test_half_precision_and_a_computed_weight_are_copied() -> None:
    model, (x,) = nets.build("mlp")
    assert [g.layer for g in trace_units(model.bfloat16(), (x.bfloat16(),)).groups] == ["0", "2"]
    with pytest.warns(FutureWarning):
        old = nn.Sequential(
            nn.utils.weight_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2)
        )
    old(torch.randn(2, 4))
    trace = trace_units(old, (torch.randn(6, 4),))
    assert [g.layer for g in trace.groups] == ["2"] and "computed" in trace.refused["0"]


def test_observation_taps_name_activation_modules() -> None:
    model, _ = nets.build("conv_net")
    assert {layer: tap.nonlinearity for layer, tap in observation_taps(model).items()} == {"2": "relu", "6": "relu"}


def test_the_traced_model_still_pickles() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    trace_units(model, (torch.randn(6, 4),))
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again[0].weight, model[0].weight)


def test_a_network_with_hooks_and_treatments_attached_is_traced_like_the_bare_one() -> None:
    class Sticky:
        """A hook that may be neither copied nor called."""

        def __call__(self, *_: object) -> None:
            raise AssertionError("the hook of the original ran")

        def __deepcopy__(self, memo: object) -> object:
            raise AssertionError("the hook was copied")

    model, inputs = nets.build("conv_net")
    bare = trace_units(model, inputs)
    for module in model.modules():
        module.register_forward_hook(Sticky()), module.register_forward_pre_hook(Sticky())
        module.register_full_backward_hook(Sticky())
    before = {path: {key: id(value) for key, value in vars(m).items()} for path, m in model.named_modules()}
    again = trace_units(model, inputs)
    assert [g.layer for g in again.groups] == [g.layer for g in bare.groups] and again.refused == bare.refused
    assert before == {path: {key: id(value) for key, value in vars(m).items()} for path, m in model.named_modules()}


def test_modules_that_were_replaced_are_traced_anew() -> None:
    model, inputs = nets.build("mlp")
    before = trace_units(model, inputs)
    for group in before.groups:
        model.set_submodule(group.layer, with_norm(model.get_submodule(group.layer)))
    after = trace_units(model, inputs)
    assert [g.layer for g in after.groups] == [g.layer for g in before.groups] == ["0", "2"]
    assert [g.mixers for g in after.groups] == [("0.norm",), ("2.norm",)]
    assert [[a.name for a in g.carriers] for g in after.groups] == [
        ["0.norm.weight", "0.norm.bias"],
        ["2.norm.weight", "2.norm.bias"],
    ]
    model(*inputs)


def test_few_tokens_are_enough_and_more_are_taken_where_they_must() -> None:
    def run(m: nets.Net2, x: Tensor) -> Tensor:
        assert x.shape[1] == m.length
        return m.out(torch.relu(m.one(m.emb(x))))

    layers = {"emb": nn.Embedding(10, 4), "one": nn.Linear(4, 7), "out": nn.Linear(7, 3)}
    for length in (8, 40):
        model, inputs = nets.made(run, torch.randint(0, 10, (6, 40)), **layers, length=length)
        assert [g.layer for g in trace_units(model, inputs).groups] == ["one"]


def test_telling_units_apart_keeps_to_the_time_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PinnedCopy, "late", lambda self, passes: 3.0)
    trace = traced.__wrapped__("gated_mlp")[2]
    assert not trace.groups and "3 s more than tracing may" in trace.refused["gate"]


@pytest.mark.parametrize("replicas", [(), (3,)])
def test_columns_of_a_grouped_convolution_are_spread_and_summed_block_by_block(replicas: tuple[int, ...]) -> None:
    """Restated with loops: output o of block o // depth sees the inputs of that block only."""
    owner, (groups, depth, size) = torch.tensor([2, 0, -1, 1, 1, 0]), (3, 2, 2)
    axis, weight = Axis("w", 1, owner, groups, depth), torch.randn(*replicas, groups * depth, size, 5)
    per_unit = torch.randn(*replicas, 3)
    spread, total = axis.spread(per_unit, 3, fill=7.0).expand_as(weight), axis.total(weight, 3, 3)
    expected = torch.zeros(*replicas, 3)
    for o in range(groups * depth):
        for i in range(size):
            unit = int(owner[o // depth * size + i])
            wanted = per_unit[..., unit] if unit >= 0 else torch.full(replicas, 7.0)
            assert torch.equal(spread[..., o, i, :], wanted[..., None].expand(*replicas, 5))
            if unit >= 0:
                expected[..., unit] += weight[..., o, i, :].sum(-1)
    assert torch.allclose(total, expected, atol=1e-5)
