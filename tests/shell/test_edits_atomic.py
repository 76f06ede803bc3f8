"""All or nothing, as a property: whatever is in the list, one bad edit leaves everything exactly as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn, optim

from homeostat.core.edits import (
    AddGradient,
    AddValues,
    ClearMoments,
    Edit,
    GrowUnits,
    ReplaceModule,
    SetBuffer,
    SetValues,
)
from homeostat.core.units import Axis, UnitGroup
from homeostat.shell.edits.apply import apply_edits
from homeostat.shell.edits.averaged_copies import averaged_copies
from homeostat.treatments.normalization.layer_norm import with_norm

WIDTH = 5


class Table:
    """A network with two optimizers and an averaged copy, a few steps into training."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(4, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3), nn.ReLU(), nn.Linear(3, 2)
        )
        self.ema = copy.deepcopy(self.model).requires_grad_(False)
        named = list(self.model.named_parameters())
        first: optim.Optimizer = optim.NAdam([{"params": named[:3], "lr": 0.1}, {"params": named[3:]}])
        self.optimizers = [
            first,
            optim.SGD([self.model.get_parameter("0.weight")], 0.1, momentum=0.9, dampening=0.1),
        ]
        for _ in range(2):
            self.model(torch.randn(6, 4)).square().mean().backward()
            for optimizer in self.optimizers:
                optimizer.step()
        self.averaged = averaged_copies(self.ema, self.model)

    def everything(self) -> dict[str, Any]:
        """Every object that edits could exchange, and every number they could change."""
        found: dict[str, Any] = {}
        for label, model in (("model", self.model), ("ema", self.ema)):
            for name, module in model.named_modules(remove_duplicate=False):
                found[f"{label}.{name}"] = module
                found[f"{label}.{name}.size"] = [v for v in vars(module).values() if isinstance(v, int)]
            tensors = [*model.named_parameters(), *model.named_buffers()]
            tensors += [(f"{n}.grad", p.grad) for n, p in model.named_parameters() if p.grad is not None]
            found |= {f"{label}.{n}": (t, t.detach().clone()) for n, t in tensors}
        for i, optimizer in enumerate(self.optimizers):
            for j, group in enumerate(optimizer.param_groups):
                found[f"{i}.{j}"] = ([id(p) for p in group["params"]], list(group.get("param_names", [])))
            for p, state in optimizer.state.items():
                found[f"{i}.state.{id(p)}"] = state
                for k, v in state.items():
                    found[f"{i}.state.{id(p)}.{k}"] = (v, v.clone()) if isinstance(v, Tensor) else v
        return found


def alike(a: Any, b: Any) -> bool:
    """The same objects with the same values."""
    if isinstance(a, tuple) and isinstance(b, tuple) and a and b and isinstance(a[0], Tensor):
        return a[0] is b[0] and torch.equal(a[1], b[1])
    return a is b or (isinstance(a, (list, tuple, int, float)) and a == b)


def axis(name: str, dim: int) -> Axis:
    return Axis(name, dim, torch.arange(WIDTH))


GROUP = UnitGroup(
    "0",
    WIDTH,
    (axis("0.weight", 0), axis("0.bias", 0)),
    (axis("3.weight", 1),),
    (axis("1.weight", 0), axis("1.bias", 0)),
    (axis("1.running_mean", 0), axis("1.running_var", 0)),
)
MASK = torch.arange(WIDTH) % 2 == 0


def raises(module: nn.Module) -> nn.Module:
    raise ArithmeticError


GOOD: list[Edit] = [
    SetValues("0.weight", torch.full((4,), 3.0), MASK[:, None]),
    SetValues("0.bias", torch.zeros(()), averaged=True),
    AddValues("3.weight", torch.ones(3, 1)),
    AddValues("3.bias", torch.ones(()), averaged=True),
    SetBuffer("1.running_var", torch.ones(()), MASK),
    AddGradient("5.weight", torch.ones(2, 3)),
    ClearMoments("0.weight", MASK[:, None]),
    ClearMoments("0.weight", restart=True),
    ClearMoments("3.bias"),
    ReplaceModule("3", with_norm),
    ReplaceModule("2", lambda m: nn.Tanh()),
]
GROW = GrowUnits("0", GROUP, 2, {"0.weight": torch.ones(())})
# found when the list is checked, and only when it is carried out
BAD: list[Edit] = [
    SetValues("0.weight", torch.zeros(7)),
    SetValues("nowhere", torch.zeros(())),
    AddValues("3.bias", torch.full((), torch.inf)),
    ClearMoments("0.weight", MASK[:, None], restart=True),
    ReplaceModule("", copy.deepcopy),
    ReplaceModule("5", raises),
    ReplaceModule("5", lambda m: None),  # type: ignore[arg-type, return-value]
    ReplaceModule("5", lambda m: nn.Linear(3, int(torch.randint(3, 9000, ())))),
]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(GOOD), max_size=6), st.booleans(), st.sampled_from(BAD), st.integers(0, 7))
def test_one_bad_edit_at_any_place_leaves_every_object_and_every_number(
    good: list[Edit], grows: bool, bad: Edit, at: int
) -> None:
    table = Table()
    before = table.everything()
    edits = [*good[:at], bad, *good[at:], *([GROW] if grows else [])]
    with pytest.raises(Exception):  # noqa: B017 - whatever it is, what matters is what is left
        apply_edits(edits, table.model, table.optimizers, averaged=table.averaged)
    after = table.everything()
    assert before.keys() == after.keys()
    assert not [key for key in before if not alike(before[key], after[key])]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([*GOOD[:8], GROW]), min_size=1, max_size=6))
def test_undo_takes_back_any_list_of_edits(edits: list[Edit]) -> None:
    table = Table()
    before = table.everything()
    edits = [e for i, e in enumerate(edits) if e is not GROW or GROW not in edits[:i]]
    # a grown tensor takes no edit that was planned for its old shape
    edits = sorted(edits, key=lambda e: e is GROW)
    applied = apply_edits(edits, table.model, table.optimizers, averaged=table.averaged)
    assert [key for key, value in table.everything().items() if not alike(before.get(key, ()), value)]
    applied.undo()
    after = table.everything()
    assert before.keys() == after.keys()
    assert not [key for key in before if not alike(before[key], after[key])]


def test_every_edit_of_a_network_is_covered() -> None:
    kinds = {type(e) for e in (*GOOD, GROW)}
    elsewhere = {"ExtendBatch", "MaskOutputs"}
    assert {k.__name__ for k in Edit.__subclasses__()} - elsewhere == {k.__name__ for k in kinds}
