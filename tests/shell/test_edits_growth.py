"""Growing a layer: the function stays, old elements keep their optimizer state, new ones really train."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from homeostat.core.edits import Edit, GrowUnits, ReplaceModule, SetValues
from homeostat.core.errors import BadInput, HomeostatError, Refused
from homeostat.core.units import Axis, UnitGroup
from homeostat.shell.edits.apply import apply_edits
from homeostat.shell.edits.averaged_copies import averaged_copies


def along(name: str, dim: int, width: int, each: int = 1) -> Axis:
    return Axis(name, dim, torch.arange(width).repeat_interleave(each))


def dense() -> tuple[nn.Sequential, UnitGroup, tuple[int, ...]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    rows = along("0.weight", 0, 5), along("0.bias", 0, 5)
    norm = along("1.weight", 0, 5), along("1.bias", 0, 5)
    buffers = along("1.running_mean", 0, 5), along("1.running_var", 0, 5)
    return model, UnitGroup("0", 5, rows, (along("3.weight", 1, 5),), norm, buffers), (6, 4)


def conv() -> tuple[nn.Sequential, UnitGroup, tuple[int, ...]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    rows = along("0.weight", 0, 3), along("0.bias", 0, 3)
    kernel = model.get_parameter("0.weight")
    kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
    return model, UnitGroup("0", 3, rows, (along("3.weight", 1, 3, 4),)), (6, 2, 4, 4)


def edit(group: UnitGroup, count: int = 2, **values: Tensor) -> GrowUnits:
    named = {"0.weight": torch.full((), 0.25), **{k.replace("_", "."): v for k, v in values.items()}}
    return GrowUnits(group.layer, group, count, named)


def train(model: nn.Module, optimizer: optim.Optimizer, shape: tuple[int, ...], steps: int = 3) -> None:
    generator = torch.Generator().manual_seed(1)
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(steps):
        optimizer.zero_grad()
        scaler.scale(model(torch.randn(shape, generator=generator)).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()


OPTIMIZERS: list[Callable[[Any], optim.Optimizer]] = [
    lambda p: optim.Adam(p, 0.01, amsgrad=True),
    lambda p: optim.AdamW(p, 0.01, fused=True),
    lambda p: optim.SGD(p, 0.1, momentum=0.9, foreach=True),
    lambda p: optim.Adagrad(p, 0.1, initial_accumulator_value=0.5),
    lambda p: optim.Rprop(p, 0.01),
]
GROWN = {"0.weight": 0, "0.bias": 0, "1.weight": 0, "1.bias": 0, "3.weight": 1}


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("net", [dense, conv])
def test_a_grown_layer_computes_the_same_keeps_its_state_and_trains_its_new_units(net, make) -> None:
    model, group, shape = net()
    named = dict(model.named_parameters())
    groups = [{"params": [(n, p) for n, p in named.items() if n[0] == i], "weight_decay": 0.0} for i in ("3", "0", "1")]
    optimizer = make([g for g in groups if g["params"]])
    train(model, optimizer, shape)
    model.eval()
    x = torch.randn(shape)
    before, out = copy.deepcopy((dict(model.named_parameters()), dict(optimizer.state))), model(x)
    places = [(i, j, n) for i, g in enumerate(optimizer.param_groups) for j, n in enumerate(g["param_names"])]
    grown_names = [n for n in named if n in GROWN]
    was = {n: (p, optimizer.state[p], dict(optimizer.state[p])) for n, p in named.items()}
    applied = apply_edits([edit(group)], model, [optimizer])
    now = dict(model.named_parameters())
    torch.testing.assert_close(model(x), out, rtol=1e-6, atol=1e-6)
    for name in grown_names:
        dim, old = GROWN[name], was[name][0]
        size, new = old.shape[dim], now[name]
        assert new is not old and old not in optimizer.state
        assert torch.equal(new.narrow(dim, 0, size), old) and torch.equal(new.grad.narrow(dim, 0, size), old.grad)
        fills = {"sum": 0.5, "step_size": 0.01}
        for key, value in was[name][2].items():
            state = optimizer.state[new][key]
            if isinstance(value, Tensor) and value.shape == old.shape:
                assert state.shape == new.shape and torch.equal(state.narrow(dim, 0, size), value)
                assert bool((state.narrow(dim, size, new.shape[dim] - size) == fills.get(key, 0.0)).all())
            else:
                assert torch.equal(torch.as_tensor(state), torch.as_tensor(value)), key
    assert [(i, j, n) for i, g in enumerate(optimizer.param_groups) for j, n in enumerate(g["param_names"])] == places
    assert all(optimizer.param_groups[i]["params"][j] is now[n] for i, j, n in places)
    assert now["3.bias"] is named["3.bias"]
    assert now["0.weight"].is_contiguous(memory_format=torch.channels_last) or net is dense
    assert model[0].weight.shape[0] == getattr(model[0], "out_features", getattr(model[0], "out_channels", 0))
    start = {n: p.detach().clone() for n, p in now.items()}
    applied.undo()
    for name, (parameter, state, content) in was.items():
        assert dict(model.named_parameters())[name] is parameter and optimizer.state[parameter] is state
        assert all(state[k] is v for k, v in content.items())
        assert torch.equal(parameter, before[0][name])
    assert len(optimizer.state) == len(was) and model[3].in_features == named["3.weight"].shape[1]
    model.train()
    apply_edits([edit(group)], model, [optimizer])
    train(model, optimizer, shape, 2)
    for name in set(grown_names) - ({"0.bias"} if net is dense else set()):  # a bias before a batch norm never moves
        dim = GROWN[name]
        size = was[name][0].shape[dim]
        moved = (model.get_parameter(name) != start[name]).narrow(dim, size, start[name].shape[dim] - size)
        assert bool(moved.any()), f"the new part of {name} does not train"


def test_averaged_copies_grow_with_the_network_and_keep_their_own_old_rows() -> None:
    model, group, _ = dense()
    ema = copy.deepcopy(model).requires_grad_(False)
    for tensor in ema.state_dict().values():
        tensor.add_(1)
    old = {n: t.clone() for n, t in ema.state_dict().items()}
    optimizer = optim.Adam(model.parameters())
    applied = apply_edits([edit(group)], model, [optimizer], averaged=averaged_copies(ema, model))
    mine, theirs = model.state_dict(), ema.state_dict()
    for name, was in old.items():
        dim = GROWN.get(name, 0)
        assert mine[name].shape == theirs[name].shape
        if was.ndim:
            size = was.shape[dim]
            assert torch.equal(theirs[name].narrow(dim, 0, size), was)
            rest = mine[name].shape[dim] - size
            assert torch.equal(theirs[name].narrow(dim, size, rest), mine[name].narrow(dim, size, rest))
    assert not any(p.requires_grad for p in ema.parameters())
    applied.undo()
    assert all(torch.equal(t, old[n]) for n, t in ema.state_dict().items())


class Unknown(optim.SGD):
    pass


class Slow(optim.Optimizer):
    def __init__(self, params) -> None:
        super().__init__(params, {"lr": 0.1})

    def step(self, closure=None) -> None:
        for p in self.param_groups[0]["params"]:
            self.state[p]["slow"] = p.detach().clone()


def tied(model: nn.Sequential) -> None:
    model.append(nn.Linear(4, 5))
    model[4].weight = model[0].weight


REFUSALS: dict[str, tuple[Callable[[nn.Sequential], object], dict[str, Any], str, type[HomeostatError]]] = {
    "norm over units": (
        lambda m: setattr(m, "1", nn.LayerNorm(5)),
        {"buffers": ()},
        "other units",
        Refused,
    ),
    "subclass": (lambda m: setattr(m[0], "__class__", type("Odd", (nn.Linear,), {})), {}, "Odd", Refused),
    "tied": (tied, {}, "tied", Refused),
    "hooked": (lambda m: m.get_parameter("0.weight").register_hook(torch.clone), {}, "hooks", Refused),
    "frozen": (lambda m: m[3].weight.requires_grad_(False), {}, "frozen", Refused),
    "apart": (lambda m: None, {"columns": (Axis("3.weight", 1, torch.tensor([0, 2, 1, 3, 4])),)}, "one after", Refused),
    "stale": (lambda m: m.__setitem__(3, nn.Linear(7, 3)), {}, "as it is now", Refused),
    "twice": (lambda m: None, {"columns": (along("0.weight", 1, 5),)}, "both makes and uses", Refused),
    "mixed": (lambda m: None, {"mixers": ("1",)}, "1 normalises over its units", Refused),
    "grouped consumer": (
        lambda m: None,
        {"columns": (replace(along("3.weight", 1, 5), groups=5),)},
        "one after",
        Refused,
    ),
    "no consumers": (lambda m: None, {"columns": ()}, "consumers", BadInput),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_grow_is_refused_and_stays_as_it_was(case: str) -> None:
    spoil, changes, message, kind = REFUSALS[case]
    model, group, _ = dense()
    spoil(model)
    optimizer = optim.Adam(model.parameters())
    before = [(n, p, p.detach().clone()) for n, p in model.named_parameters()]
    edits: list[Edit] = [SetValues("0.bias", torch.zeros(())), edit(replace(group, **changes))]
    with pytest.raises(kind, match=message):
        apply_edits(edits, model, [optimizer])
    assert all(p is q and torch.equal(p, v) for (_, p, v), q in zip(before, model.parameters(), strict=True))


def test_values_must_fit_and_grouped_convolutions_and_unknown_optimizers_are_refused() -> None:
    model, group, shape = dense()
    adam = optim.Adam(model.parameters())
    for bad, message in (
        (edit(group, 0), "at least 1"),
        (GrowUnits("0", group, 1, {}), "values for their weights"),
        (edit(group, 2, **{"0_weight": torch.zeros(3, 4)}), r"\[3, 4\].*\[2, 4\]"),
        (edit(group, 2, **{"0_weight": torch.full((), torch.nan)}), "not finite"),
        (edit(group, 2, **{"3_bias": torch.zeros(())}), "does not change 3.bias"),
        (replace(edit(group), target="3"), "the group of 3"),
    ):
        with pytest.raises(BadInput, match=message):
            apply_edits([bad], model, [adam])
    slow = Slow(model.parameters())
    slow.step()
    with pytest.raises(Refused, match="Slow"):
        apply_edits([edit(group)], model, [slow])
    lbfgs = optim.LBFGS(model.parameters())
    for edits in ([edit(group)], [ReplaceModule("0", lambda m: nn.Linear(4, 5))]):
        with pytest.raises(Refused, match="LBFGS"):
            apply_edits(edits, model, [lbfgs])
    known = Unknown(model.parameters(), 0.1, momentum=0.9)
    train(model, known, shape)
    apply_edits([edit(group)], model, [known])
    grouped = nn.Sequential(nn.Conv1d(2, 4, 1, groups=2), nn.ReLU(), nn.Conv1d(4, 1, 1))
    units = UnitGroup("0", 4, (along("0.weight", 0, 4),), (along("2.weight", 1, 4),))
    with pytest.raises(Refused, match="in groups"):
        apply_edits([edit(units)], grouped, [optim.SGD(grouped.parameters(), 0.1)])


def test_a_network_that_data_parallelism_holds_is_refused() -> None:
    model, group, _ = dense()
    optimizer = optim.Adam(model.parameters())
    store: Any = vars(torch.distributed)["HashStore"]()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        for edits in ([edit(group)], [ReplaceModule("0", copy.deepcopy)]):
            with pytest.raises(Refused, match="DistributedDataParallel"):
                apply_edits(edits, model, [optimizer])
            with pytest.raises(Refused, match="DistributedDataParallel"):
                apply_edits(
                    [replace(e, target=f"inner.module.{e.target}") for e in edits],
                    nn.ModuleDict({"inner": wrapped}),
                    [optimizer],
                )
    finally:
        torch.distributed.destroy_process_group()
