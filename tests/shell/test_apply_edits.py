"""Applying edits: exact, in place, all or nothing, and undoable, on every optimizer family."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn, optim

from homeostat.core.edits import AddGradient, AddValues, ClearMoments, Edit, ReplaceModule, SetBuffer, SetValues
from homeostat.core.errors import BadInput, Refused, UnknownName
from homeostat.shell.edits.apply import apply_edits

OPTIMIZERS = {
    "sgd": (lambda p: optim.SGD(p, 0.1, momentum=0.9), {"momentum_buffer": 0.0}),
    "adam": (lambda p: optim.Adam(p, 0.01, amsgrad=True), {"exp_avg": 0.0, "exp_avg_sq": 0.0, "max_exp_avg_sq": 0.0}),
    "adam-fused": (lambda p: optim.Adam(p, 0.01, fused=True), {"exp_avg": 0.0, "exp_avg_sq": 0.0}),
    "adamw-foreach": (lambda p: optim.AdamW(p, 0.01, foreach=True), {"exp_avg": 0.0, "exp_avg_sq": 0.0}),
    "nadam": (lambda p: optim.NAdam(p, 0.01), {"exp_avg": 0.0, "exp_avg_sq": 0.0}),
    "radam": (lambda p: optim.RAdam(p, 0.01), {"exp_avg": 0.0, "exp_avg_sq": 0.0}),
    "adamax": (lambda p: optim.Adamax(p, 0.01), {"exp_avg": 0.0, "exp_inf": 0.0}),
    "rmsprop": (
        lambda p: optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
        {"square_avg": 0.0, "momentum_buffer": 0.0, "grad_avg": 0.0},
    ),
    "adagrad": (lambda p: optim.Adagrad(p, 0.01, initial_accumulator_value=0.5), {"sum": 0.5}),
    "adadelta": (lambda p: optim.Adadelta(p), {"square_avg": 0.0, "acc_delta": 0.0}),
    "rprop": (lambda p: optim.Rprop(p, 0.01), {"prev": 0.0, "step_size": 0.01}),
}


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def train(model: nn.Module, optimizers: list[optim.Optimizer], steps: int = 3) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        model(torch.randn(6, 4, generator=generator)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()


def everything(model: nn.Module, optimizers: list[optim.Optimizer]) -> dict[str, Tensor]:
    """Every number that an edit could change, copied."""
    found = {k: v.detach().clone() for k, v in model.state_dict(keep_vars=True).items()}
    found |= {f"grad.{n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    for i, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            found |= {f"{i}.{index}.{k}": v.clone() for k, v in state.items() if isinstance(v, Tensor)}
        ids = [id(p) for g in optimizer.param_groups for p in g["params"]]
        found[f"{i}.membership"] = torch.tensor(ids)
    return found


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_clear_moments_clears_the_masked_elements_and_nothing_else(name: str) -> None:
    make, fills = OPTIMIZERS[name]
    model = small()
    optimizer = make(model.parameters())
    train(model, [optimizer])
    weight = model[0].weight
    before = {k: v.clone() for k, v in optimizer.state[weight].items() if isinstance(v, Tensor)}
    mask = torch.tensor([True, False, False, True, False])[:, None]
    others = everything(model, [optimizer])
    apply_edits([ClearMoments("0.weight", mask)], model, [optimizer])
    assert fills.keys() == {k for k, v in before.items() if v.shape == weight.shape}
    for key, old in before.items():
        expected = torch.where(mask, torch.tensor(fills[key]), old) if key in fills else old
        assert torch.equal(optimizer.state[weight][key], expected), key
    changed = {k for k, v in everything(model, [optimizer]).items() if not torch.equal(v, others[k])}
    assert changed <= {f"0.0.{key}" for key in fills}
    train(model, [optimizer], 1)


def test_clear_moments_before_the_first_step_is_fine() -> None:
    model = small()
    optimizer = optim.Adam(model.parameters())
    apply_edits([ClearMoments("0.weight")], model, [optimizer])
    assert len(optimizer.state) == 0


def test_a_parameter_in_two_optimizers_is_cleared_in_both() -> None:
    model = small()
    both: list[optim.Optimizer] = [optim.Adam(model.parameters()), optim.SGD(model[0].parameters(), 0.1, momentum=0.9)]
    train(model, both)
    apply_edits([ClearMoments("0.weight")], model, both)
    assert not both[0].state[model[0].weight]["exp_avg"].any()
    assert not both[1].state[model[0].weight]["momentum_buffer"].any()


class Lion(optim.Optimizer):
    """An optimizer of an unknown class."""

    def __init__(self, params) -> None:
        super().__init__(params, {"lr": 0.01})

    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p].setdefault("slow", torch.zeros_like(p)).add_(p.grad)


class MyAdam(optim.Adam):
    """A subclass of a known optimizer."""


def test_unknown_state_is_refused_by_name_and_subclasses_are_not() -> None:
    model = small()
    lion: list[optim.Optimizer] = [Lion(model.parameters())]
    train(model, lion, 1)
    before = everything(model, lion)
    with pytest.raises(Refused, match=r"0\.weight.*Lion"):
        apply_edits([SetValues("0.weight", torch.zeros(())), ClearMoments("0.weight")], model, lion)
    assert same(everything(model, lion), before)
    mine: list[optim.Optimizer] = [MyAdam(model.parameters())]
    train(model, mine, 1)
    apply_edits([ClearMoments("0.weight")], model, mine)
    assert not mine[0].state[model[0].weight]["exp_avg"].any()


def test_factored_state_is_refused() -> None:
    model = small()
    optimizers: list[optim.Optimizer] = [optim.Adafactor(model.parameters())]
    train(model, optimizers, 1)
    with pytest.raises(Refused, match="Adafactor"):
        apply_edits([ClearMoments("0.weight")], model, optimizers)


def test_values_are_exact_in_place_and_undone() -> None:
    model = small()
    optimizers: list[optim.Optimizer] = [optim.Adam(model.parameters())]
    train(model, optimizers)
    before, weight, bias = everything(model, optimizers), model[0].weight, model[0].bias
    where, old = weight.data_ptr(), weight.detach().clone()
    mask = torch.tensor([True, False, True, False, False])
    edits: list[Edit] = [
        SetValues("0.weight", torch.full((1, 4), 7.0, dtype=torch.float64), mask[:, None]),
        AddValues("0.weight", torch.ones(5, 1)),
        SetValues("0.bias", torch.zeros(())),
        SetBuffer("1.running_mean", torch.tensor(2.0), mask),
        ClearMoments("0.weight", mask[:, None]),
        AddGradient("3.bias", torch.ones(3)),
    ]
    grad = model[3].bias.grad.clone()
    applied = apply_edits(edits, model, optimizers)
    assert torch.equal(weight, torch.where(mask[:, None], torch.tensor(7.0), old) + 1)
    assert not bias.any() and torch.equal(model[1].running_mean[mask], torch.tensor([2.0, 2.0]))
    assert torch.equal(model[3].bias.grad, grad + 1)
    assert model[0].weight is weight and weight.data_ptr() == where and weight.requires_grad
    assert weight.dtype == torch.float32
    assert "2 of 5" in edits[0].describe()
    applied.undo()
    assert same(everything(model, optimizers), before)
    train(model, optimizers, 1)
    trained = everything(model, optimizers)
    applied.undo()
    assert same(everything(model, optimizers), trained)


def test_memory_format_survives() -> None:
    conv = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    optimizer = optim.SGD(conv.parameters(), 0.1)
    apply_edits(
        [SetValues("weight", torch.randn(6, 4, 3, 3)), AddGradient("weight", torch.ones(()))], conv, [optimizer]
    )
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert conv.weight.grad is not None
    assert conv.weight.grad.is_contiguous(memory_format=torch.channels_last)


def test_a_scaled_gradient_gets_a_scaled_addition_and_a_missing_one_is_made() -> None:
    model = small()
    optimizers = [optim.SGD(model.parameters(), 0.1)]
    applied = apply_edits([AddGradient("0.bias", torch.ones(()))], model, optimizers, grad_scale=torch.tensor(8.0))
    assert torch.equal(model[0].bias.grad, torch.full((5,), 8.0))
    applied.undo()
    assert model[0].bias.grad is None


BAD = {
    "unknown parameter": (SetValues("0.weigth", torch.zeros(())), UnknownName, r"0\.weight"),
    "unknown buffer": (SetBuffer("1.running_meen", torch.zeros(())), UnknownName, "running_mean"),
    "unknown module": (ReplaceModule("9", lambda m: m), UnknownName, "module"),
    "shape": (SetValues("0.weight", torch.zeros(4, 5)), BadInput, r"\[4, 5\].*\[5, 4\]"),
    "rank": (AddValues("0.bias", torch.zeros(1, 5)), BadInput, "broadcast"),
    "mask shape": (ClearMoments("0.weight", torch.ones(5, dtype=torch.bool)), BadInput, "mask"),
    "mask kind": (SetValues("0.bias", torch.zeros(()), torch.ones(5)), BadInput, "boolean"),
    "not finite": (AddGradient("0.bias", torch.full((5,), float("nan"))), BadInput, "finite"),
    "overflow": (SetValues("0.bias", torch.tensor(1e300, dtype=torch.float64)), BadInput, "finite"),
    "frozen": (SetValues("3.bias", torch.zeros(())), Refused, "frozen"),
    "untrained": (SetValues("1.weight", torch.zeros(())), Refused, "optimizer"),
    "root": (ReplaceModule("", lambda m: m), Refused, "root"),
    "not an edit": (Edit("0.weight"), BadInput, "Edit"),
    "no module made": (ReplaceModule("0", lambda m: None), BadInput, "must be a module"),
    "make fails": (ReplaceModule("0", lambda m: 1 / 0), ZeroDivisionError, "division"),  # type: ignore[arg-type, return-value]
}


@pytest.mark.parametrize("case", BAD)
def test_one_bad_edit_changes_nothing_at_all(case: str) -> None:
    bad, error, message = BAD[case]
    model = small()
    model[3].bias.requires_grad_(False)
    optimizers: list[optim.Optimizer] = [
        optim.Adam([p for n, p in model.named_parameters() if n not in ("1.weight", "3.bias")])
    ]
    train(model, optimizers)
    before = everything(model, optimizers)
    good: list[Edit] = [
        SetValues("0.weight", torch.zeros(())),
        ClearMoments("0.weight"),
        AddGradient("0.weight", torch.ones(())),
        ReplaceModule("2", lambda m: nn.Sequential(m, nn.LayerNorm(5))),
    ]
    with pytest.raises(error, match=message):
        apply_edits([*good, bad], model, optimizers)
    assert same(everything(model, optimizers), before)


def test_wrapped_and_empty_tensors_and_sparse_gradients_are_refused() -> None:
    lazy = nn.LazyLinear(3)
    with pytest.raises(Refused, match="lazy"):
        apply_edits([SetValues("weight", torch.zeros(()))], lazy, [])
    table = nn.Embedding(6, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(Refused, match="sparse"):
        apply_edits([AddGradient("weight", torch.ones(()))], table, [optim.SGD(table.parameters(), 0.1)])


def test_replaced_module_trains_keeps_mode_dtype_and_state_and_is_undone() -> None:
    model = small().double().eval()
    optimizer = optim.Adam([{"params": model[3].parameters()}, {"params": model[0].parameters(), "lr": 0.5}])
    optimizers: list[optim.Optimizer] = [optimizer]
    x = torch.randn(6, 4, dtype=torch.float64)
    model(x).sum().backward()
    optimizer.step()
    before, old = everything(model, optimizers), model[0]
    state = optimizer.state[old.weight]
    applied = apply_edits([ReplaceModule("0", lambda m: nn.Sequential(m, nn.LayerNorm(5)))], model, optimizers)
    norm = model[0][1]
    assert model[0][0] is old and not norm.training and norm.weight.dtype == torch.float64
    assert any(p is norm.weight for p in optimizer.param_groups[1]["params"])
    assert optimizer.state[old.weight] is state
    start = norm.weight.detach().clone()
    model(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(start, norm.weight)
    trained = old.weight.detach().clone()
    applied.undo()
    assert model[0] is old and norm.weight not in optimizer.state
    assert before["0.membership"].equal(everything(model, optimizers)["0.membership"])
    assert torch.equal(old.weight, trained) and optimizer.state[old.weight] is state


@pytest.mark.parametrize("make", [optim.Adagrad, lambda p: optim.SGD(p, 0.1, momentum=0.9)])
def test_parameters_that_are_gone_leave_the_optimizer_and_named_groups_stay_aligned(make) -> None:
    model = small()
    optimizer = make(list(model.named_parameters()))
    train(model, [optimizer])
    before, gone = everything(model, [optimizer]), model[0].weight
    applied = apply_edits([ReplaceModule("0", lambda m: nn.Linear(4, 5, bias=False))], model, [optimizer])
    group = optimizer.param_groups[0]
    assert gone not in optimizer.state and all(p is not gone for p in group["params"])
    assert [dict(model.named_parameters())[n] is p for n, p in zip(group["param_names"], group["params"], strict=True)]
    train(model, [optimizer], 1)
    assert optimizer.state[model[0].weight]
    fresh = copy.deepcopy(optimizer.state_dict())
    assert len(fresh["state"]) == len(group["params"])
    applied.undo()
    assert before.keys() == everything(model, [optimizer]).keys()
    assert before["0.membership"].equal(everything(model, [optimizer])["0.membership"])


def test_a_module_with_two_names_is_replaced_under_both() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), shared, nn.Linear(2, 2), shared)
    applied = apply_edits([ReplaceModule("1", lambda m: nn.Tanh())], model, [optim.SGD(model.parameters(), 0.1)])
    assert model[1] is model[3] and isinstance(model[1], nn.Tanh)
    applied.undo()
    assert model[1] is shared and model[3] is shared


def test_dry_run_says_what_would_happen_and_calls_nothing() -> None:
    replacing = ReplaceModule("b", lambda m: 1 / 0)  # type: ignore[arg-type, return-value]
    edits = [SetValues("a", torch.zeros(()), torch.ones(3, dtype=torch.bool)), replacing]
    assert [edit.describe() for edit in edits] == ["set a where 3 of 3 mask entries are set", "replace module b"]
