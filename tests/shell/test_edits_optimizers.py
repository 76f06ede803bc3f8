"""Every optimizer of torch, in every implementation: chosen rows begin anew, and nothing else notices."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from homeostat.core.edits import AddGradient, ClearMoments, Edit, SetValues
from homeostat.core.errors import BadInput, Refused
from homeostat.shell.edits.apply import apply_edits

MUON: Any = getattr(optim, "Muon", None)  # torch 2.6 has none
OPTIONS: dict[type[optim.Optimizer], list[dict[str, Any]]] = {
    optim.SGD: [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "maximize": True, "weight_decay": 0.1}],
    optim.Adam: [{}, {"amsgrad": True}, {"weight_decay": 0.1, "maximize": True, "lr": torch.tensor(0.01)}],
    optim.AdamW: [{}, {"amsgrad": True, "weight_decay": 0.1}],
    optim.NAdam: [{}, {"decoupled_weight_decay": True, "weight_decay": 0.1}],
    optim.RAdam: [{}, {"weight_decay": 0.1, "maximize": True}],
    optim.RMSprop: [{}, {"centered": True, "momentum": 0.9}],
    optim.Adagrad: [{"initial_accumulator_value": 0.5, "lr_decay": 0.1}],
    optim.Adadelta: [{}, {"rho": 0.5, "maximize": True}],
    optim.Adamax: [{}],
    optim.Rprop: [{}],
    **({MUON: [{}]} if MUON else {}),
}
FUSED = (optim.SGD, optim.Adam, optim.AdamW, optim.Adagrad)
NO_CAPTURE = (optim.SGD, optim.Adagrad, MUON)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def zoo() -> Iterator[Any]:
    for device, (kind, several) in itertools.product(DEVICES, OPTIONS.items()):
        for options in several:
            variants: list[dict[str, bool]] = [{}] if kind is MUON else [{"foreach": False}, {"foreach": True}]
            variants += [{"fused": True}] if kind in FUSED else []
            variants += [{"capturable": True}] if device == "cuda" and kind not in NO_CAPTURE else []
            for variant in variants:
                if variant.get("foreach") and isinstance(options.get("lr"), Tensor):
                    continue  # torch does not take a tensor there
                name = "-".join([kind.__name__, *options, *(k for k, v in variant.items() if v), device])
                yield pytest.param(kind, {"lr": 0.01, **options, **variant}, device, id=name)


class Box(nn.Module):
    """Parameters whose gradients are given, so that one parameter's values change nobody else's gradient."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(6, 3, generator=generator).to(device))
        self.other = nn.Parameter(torch.randn(2, 4, generator=generator).to(device))
        self.idle = nn.Parameter(torch.zeros(2, 2, device=device))

    def step(self, optimizer: optim.Optimizer, at: int, scale: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(at)
        for parameter in (self.w, self.other):
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.device) * scale
        optimizer.step()


Make = Callable[..., optim.Optimizer]
ROWS = torch.tensor([True, False, True, False, False, True])[:, None]


def elements(optimizer: optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Per-element state, copied."""
    state = optimizer.state[parameter].items()
    return {k: v.clone() for k, v in state if isinstance(v, Tensor) and v.shape == parameter.shape}


def as_new(make: Make, options: dict[str, Any], device: str) -> dict[str, Tensor]:
    """Oracle of "nothing seen": the state of a new optimizer that took one step with gradients of zero."""
    box = Box(device)
    optimizer = make(box.parameters(), **{k: v for k, v in options.items() if k != "weight_decay"})
    for group in optimizer.param_groups:
        group["weight_decay"] = 0
        group |= {"eps": 0.0} if make is optim.Adamax else {}  # it takes the largest of |gradient| + eps
    box.step(optimizer, 0, scale=0.0)
    return elements(optimizer, box.w)


@pytest.mark.parametrize(("kind", "options", "device"), [*zoo()])
def test_reset_rows_begin_anew_and_every_other_element_is_bit_exact(kind: Make, options: dict, device: str) -> None:
    box, twin, rows = Box(device), Box(device), ROWS.to(device)
    treated, untreated = kind(box.parameters(), **options), kind(twin.parameters(), **options)
    for step in range(3):
        box.step(treated, step)
        twin.step(untreated, step)
    value = torch.full((3,), 7.0)
    apply_edits([SetValues("w", value, ROWS), ClearMoments("w", ROWS)], box, [treated])
    assert torch.equal(box.w, torch.where(rows, value.to(device), twin.w))
    new, kept = as_new(kind, options, device), elements(untreated, twin.w)
    assert new.keys() == kept.keys() == elements(treated, box.w).keys()
    for key, now in elements(treated, box.w).items():
        assert torch.equal(now, torch.where(rows, new[key], kept[key])), key
    for step in range(3, 6):
        box.step(treated, step)
        twin.step(untreated, step)
    assert torch.equal(box.other, twin.other)
    assert bool(torch.isfinite(box.w).all())
    rest = ~rows.expand_as(box.w)
    if kind is not MUON:  # its update is orthogonalised as a whole: rows of one matrix are never independent
        assert torch.equal(box.w[rest], twin.w[rest])
        for key, now in elements(treated, box.w).items():
            assert torch.equal(now[rest], elements(untreated, twin.w)[key][rest]), key


@pytest.mark.parametrize(
    ("kind", "options", "device"),
    [*zoo(), pytest.param(optim.SGD, {"momentum": 0.9, "dampening": 0.5}, "cpu", id="damp")],
)
def test_a_restarted_parameter_moves_exactly_as_under_a_new_optimizer(kind: Make, options: dict, device: str) -> None:
    box, fresh = Box(device), Box(device)
    treated, new = kind(box.parameters(), **options), kind(fresh.parameters(), **options)
    for step in range(5):
        box.step(treated, step)
    start, steps = Box(device).w.detach(), {k: v for k, v in treated.state[box.w].items()}
    applied = apply_edits([SetValues("w", start), ClearMoments("w", restart=True)], box, [treated])
    for step in range(4):
        box.step(treated, step)
        fresh.step(new, step)
        assert torch.equal(box.w, fresh.w), step
    for key, value in treated.state[box.w].items():
        assert value is steps[key] or not isinstance(value, Tensor) or "dampening" in options, (
            f"{key} is another tensor"
        )
    assert not torch.equal(box.other, fresh.other)
    applied.undo()


def test_a_restart_is_undone_and_needs_the_whole_tensor() -> None:
    box = Box()
    optimizer = optim.NAdam(box.parameters())
    for step in range(3):
        box.step(optimizer, step)
    before = {k: v.clone() for k, v in optimizer.state[box.w].items()}
    with pytest.raises(BadInput, match="no mask with restart"):
        apply_edits([ClearMoments("w", ROWS, restart=True)], box, [optimizer])
    clear = ClearMoments("w", restart=True)
    applied = apply_edits([clear], box, [optimizer])
    assert float(optimizer.state[box.w]["step"]) == 0 and float(optimizer.state[box.w]["mu_product"]) == 1
    assert "reset its step count" in clear.describe()
    applied.undo()
    assert all(torch.equal(v, before[k]) for k, v in optimizer.state[box.w].items())
    damped = optim.SGD(box.parameters(), 0.1, momentum=0.9, dampening=0.5, fused=True)
    box.step(damped, 0)
    with pytest.raises(Refused, match="dampening"):
        apply_edits([ClearMoments("w", restart=True)], box, [damped])


def test_groups_keep_their_settings_idle_and_frozen_parameters_are_no_obstacle() -> None:
    box = Box()
    groups = [{"params": [box.other], "lr": 0.5}, {"params": [box.w], "lr": 0.02}, {"params": [box.idle]}]
    optimizer = optim.Rprop(groups, lr=0.01)
    for step in range(3):
        box.step(optimizer, step)
    apply_edits([ClearMoments("other"), ClearMoments("w"), ClearMoments("idle")], box, [optimizer])
    assert bool((optimizer.state[box.other]["step_size"] == 0.5).all())
    assert bool((optimizer.state[box.w]["step_size"] == 0.02).all())
    assert box.idle not in optimizer.state, "a parameter without a gradient must not get state"
    box.other.requires_grad_(False)
    with pytest.raises(Refused, match="frozen"):
        apply_edits([ClearMoments("w"), SetValues("other", torch.zeros(()))], box, [optimizer])


@pytest.mark.parametrize("restart", [False, True])
def test_sparse_embeddings_under_sparse_adam(restart: bool) -> None:
    table = nn.Embedding(5, 2, sparse=True)
    optimizer, mask = (
        optim.SparseAdam(table.parameters(), 0.1),
        torch.tensor([True, True, False, False, False])[:, None],
    )
    for _ in range(3):
        optimizer.zero_grad()
        table(torch.tensor([0, 1, 3])).square().sum().backward()
        optimizer.step()
    before = elements(optimizer, table.weight)
    clear = ClearMoments("weight", None if restart else mask, restart=restart)
    applied = apply_edits([SetValues("weight", torch.ones(()), mask), clear], table, [optimizer])
    for key, value in elements(optimizer, table.weight).items():
        assert not value[:2].any() and torch.equal(value[2:], 0 * before[key][2:] if restart else before[key][2:])
    assert optimizer.state[table.weight]["step"] == (0 if restart else 3)
    with pytest.raises(Refused, match="sparse"):
        apply_edits([AddGradient("weight", torch.ones(()))], table, [optimizer])
    applied.undo()
    assert optimizer.state[table.weight]["step"] == 3
    assert all(torch.equal(v, before[k]) for k, v in elements(optimizer, table.weight).items())


class Flat(optim.Optimizer):
    """Keeps the state of all parameters in one place, under the first of them."""

    def __init__(self, params) -> None:
        super().__init__(params, {"lr": 0.01})

    def step(self, closure=None) -> None:
        first = self.param_groups[0]["params"][0]
        self.state[first]["all"] = [torch.cat([p.flatten() for p in self.param_groups[0]["params"]])]


@pytest.mark.parametrize("make", [Flat, optim.LBFGS])
@pytest.mark.parametrize("target", ["w", "other"])
def test_state_kept_for_all_parameters_together_is_refused_for_each_of_them(make: Make, target: str) -> None:
    box = Box()
    optimizer = make(box.parameters())
    clear: list[Edit] = [ClearMoments(target)]
    apply_edits(clear, box, [optimizer])  # nothing was seen yet

    def closure() -> Any:
        optimizer.zero_grad()
        loss = box.w.square().sum() + box.other.square().sum() + box.idle.sum() * 0
        loss.backward()
        return loss

    optimizer.step(closure)
    with pytest.raises(Refused, match=make.__name__):
        apply_edits(clear, box, [optimizer])
