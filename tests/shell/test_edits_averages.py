"""Averaged copies follow a reset, in the same all-or-nothing, and only when they are named."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import homeostat
from homeostat import TreatOptions
from homeostat.core.edits import AddValues, ClearMoments, Edit, ReplaceModule, SetBuffer, SetValues
from homeostat.core.errors import BadInput, Refused
from homeostat.shell.edits.apply import apply_edits
from homeostat.shell.edits.averaged_copies import averaged_copies
from homeostat.treatments.normalization.layer_norm import with_norm


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def shifted(model: nn.Module, by: float = 10.0) -> nn.Module:
    """A copy with other values."""
    other = copy.deepcopy(model)
    for tensor in other.state_dict().values():
        tensor.add_(int(by))
    return other


def numbers(*modules: nn.Module) -> list[Tensor]:
    return [v.clone() for m in modules for v in m.state_dict().values()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


class Shadow(nn.Module):
    """How EMA packages hold their copy."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.online_model, self.ema_model = model, shifted(model)


UNITS = torch.tensor([False, True, False, False, True])


def reset() -> list[Edit]:
    return [
        AddValues("3.bias", torch.full((3,), 0.5), averaged=True),
        SetValues("0.weight", torch.arange(20.0).view(5, 4), UNITS[:, None]),
        ClearMoments("0.weight", UNITS[:, None]),
        SetBuffer("1.running_mean", torch.zeros(5), UNITS),
        SetValues("3.weight", torch.zeros(()), UNITS),
        AddValues("0.weight", torch.ones(())),
        SetValues("1.bias", torch.full((), 3.0)),
    ]


@pytest.mark.parametrize("kind", ["averaged model", "plain", "wrapped", "half on its own"])
def test_reset_elements_are_set_in_every_copy_and_nothing_else_is(kind: str) -> None:
    model = small()
    if kind == "averaged model":
        given: nn.Module = AveragedModel(model)
        given.module.load_state_dict(shifted(model).state_dict())
    elif kind == "wrapped":
        given = Shadow(model)
    else:
        given = shifted(model).to(torch.bfloat16) if kind == "half on its own" else shifted(model)
    averaged = averaged_copies([given], model)
    inner = averaged[0].copy
    assert inner is not None
    before, optimizer = copy.deepcopy(inner.state_dict()), optim.Adam(model.parameters())
    all_before = numbers(model, given)
    applied = apply_edits(reset(), model, [optimizer], averaged=averaged)
    after, rows = inner.state_dict(), UNITS[:, None]
    expected = dict(before)
    expected["3.bias"] = before["3.bias"] + 0.5
    expected["0.weight"] = torch.where(
        rows, torch.arange(20.0).view(5, 4).to(before["0.weight"].dtype), before["0.weight"]
    )
    expected["1.running_mean"] = before["1.running_mean"].masked_fill(UNITS, 0.0)
    expected["3.weight"] = before["3.weight"].masked_fill(UNITS, 0.0)
    assert all(torch.equal(after[k], expected[k]) for k in expected), "noise and whole tensors must not be mirrored"
    applied.undo()
    assert equal(numbers(model, given), all_before)


def test_a_part_of_the_network_may_have_its_own_copy_inside_the_same_model() -> None:
    model = nn.ModuleDict({"online": small(), "target": shifted(small())})
    model["target"].requires_grad_(False)
    averaged = averaged_copies({"online": model["target"]}, model)
    optimizer, before = optim.SGD(model["online"].parameters(), 0.1), copy.deepcopy(model["target"].state_dict())
    apply_edits([SetValues("online.0.bias", torch.zeros(()), UNITS)], model, [optimizer], averaged=averaged)
    after = model["target"].state_dict()
    assert torch.equal(after["0.bias"], before["0.bias"].masked_fill(UNITS, 0.0))
    assert all(torch.equal(after[k], before[k]) for k in before if k != "0.bias")
    with pytest.raises(Refused, match="only its part 'online'"):
        apply_edits([ReplaceModule("online", copy.deepcopy)], model, [optimizer], averaged=averaged)


def test_what_is_no_copy_is_refused_with_the_first_difference() -> None:
    model = small()
    for given, message in (
        (nn.Sequential(nn.Linear(4, 5)), "has no '1.weight'"),
        (nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)), r"\[6, 4\], not \[5, 4\]"),
        (model, "network's own"),
        (optim.SGD(model.parameters(), 0.1), "expected a torch.nn.Module"),
        ({"nowhere": model}, "no part 'nowhere'"),
        (nn.ModuleList([shifted(model), shifted(model)]), "holds several copies"),
        ([twin := shifted(model), twin], "named twice"),
    ):
        with pytest.raises(BadInput, match=message):
            averaged_copies(given, model)
        with pytest.raises(BadInput, match=message):
            homeostat.attach(model, optim.SGD(model.parameters(), 0.1), treat=TreatOptions(averaged=given))  # type: ignore[arg-type]


def test_a_copy_that_cannot_follow_any_more_stops_the_edit_before_anything_changes() -> None:
    model, other = small(), shifted(small())
    averaged, optimizer = averaged_copies(other, model), optim.SGD(model.parameters(), 0.1)
    other[3] = nn.Linear(6, 3)  # type: ignore[operator]
    before = numbers(model, other)
    with pytest.raises(Refused, match=r"3\.weight.*\[3, 6\]"):
        apply_edits(reset(), model, [optimizer], averaged=averaged)
    assert equal(numbers(model, other), before)
    del other
    start = numbers(model)
    apply_edits(reset(), model, [optimizer], averaged=averaged)
    assert not equal(numbers(model), start), "a dropped copy is not followed"


def test_replacement_happens_in_the_copy_too_with_the_networks_new_values() -> None:
    model, other = small(), shifted(small())
    averaged, optimizer = averaged_copies(other, model), optim.Adam(model.parameters())

    def make(old: nn.Module) -> nn.Module:
        new = with_norm(old, "0")
        nn.init.normal_(new.norm.weight)  # type: ignore[arg-type]
        return new

    old, before = other[0], numbers(other)  # type: ignore[index]
    applied = apply_edits([ReplaceModule("0", make)], model, [optimizer], averaged=averaged)
    new, mine = cast(Any, other)[0], cast(Any, model)[0]
    assert new is not mine and new.weight is old.weight
    assert torch.equal(new.norm.weight, mine.norm.weight) and new.norm.weight is not mine.norm.weight
    assert [n for n, _ in other.named_parameters()] == [n for n, _ in model.named_parameters()]
    applied.undo()
    assert other[0] is old and equal(numbers(other), before)  # type: ignore[index]
    shared = nn.Linear(4, 5)
    start = numbers(model, other)
    for make_bad, message in (
        (lambda m: shared, "share tensors"),
        (lambda m: m if m is old else shared, "differently"),
    ):
        target = "2" if message == "differently" else "0"
        maker = make_bad if target == "0" else (lambda m: nn.Tanh() if m is other[2] else nn.PReLU())  # type: ignore[index]
        with pytest.raises(Refused, match=message):
            apply_edits([ReplaceModule(target, maker)], model, [optimizer], averaged=averaged)
        assert equal(numbers(model, other), start)


def follow(averaged: bool, steps: int = 40) -> tuple[nn.Sequential, nn.Module, homeostat.AttachedRun]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = optim.Adam(model.parameters(), 0.01)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    named = [ema] if averaged else []
    texts = ["continual-backprop:replacement_rate=0.02,maturity_threshold=5"]
    run = homeostat.attach(
        model, optimizer, treatments=texts, every=1000, strict=True, treat=TreatOptions(averaged=named)
    )
    generator = torch.Generator().manual_seed(0)
    with run:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(16, 4, generator=generator)).square().mean().backward()
            optimizer.step()
            ema.update_parameters(model)
    return model, ema.module, run


def test_an_attached_run_resets_units_in_the_named_copy_and_leaves_an_unnamed_one_alone() -> None:
    named_model, named, run = follow(True)
    plain_model, unnamed, _ = follow(False)
    assert equal(numbers(named_model), numbers(plain_model)), "the network's own trajectory must not depend on copies"
    assert not equal(numbers(named), numbers(unnamed))
    resets = [e for e in run.journal() if e.action == "edit"]
    assert resets and all(e.detail["averaged"] == 1 for e in resets)


def test_an_unnamed_deep_copy_is_never_touched() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer, target = optim.SGD(model.parameters(), 0.1), copy.deepcopy(model)
    before, generator = numbers(target), torch.Generator().manual_seed(0)
    texts = ["continual-backprop:replacement_rate=0.1,maturity_threshold=2"]
    with homeostat.attach(model, optimizer, treatments=texts, every=1000, strict=True) as run:
        later = copy.deepcopy(model)
        for _ in range(12):
            x = torch.randn(16, 4, generator=generator)
            optimizer.zero_grad()
            (model(x) - target(x).detach() - later(x).detach()).square().mean().backward()
            optimizer.step()
        assert any(e.action == "edit" for e in run.journal())
    assert equal(numbers(target), before) and equal(numbers(later), before)
