"""Real resets through `attach` on networks of every kind: dead units go unnoticed, and what is reset learns again."""

from __future__ import annotations

import copy
from collections.abc import Callable

import nets
import nets_attention
import nets_conv
import nets_dense
import pytest
import torch
from grids import part_of
from nets_expected import CASES
from torch import Tensor, nn

import homeostat
from homeostat.core.units import UnitGroup
from homeostat.shell.unit_graph.module_roles import tensors_in
from homeostat.shell.unit_graph.trace import trace_units
from homeostat.treatments.resets.continual_backprop import ContinualBackprop
from homeostat.treatments.resets.redo import ReDo

assert nets_attention and nets_conv and nets_dense
PLAIN = ("fused_gpt", "torchvision_resnet", "swiglu", "fused_gate", "actor_critic", "depthwise", "inverted_residual",
         "trained_lora", "transposed_weights", "unet")  # fmt: skip
NORMED = ("norm_after", "inserted_norms", "functional_norm")


def build(name: str) -> nets.Net:
    return CASES[name].build() if name in CASES else nets.build(name)


def places(model: nn.Module, group: UnitGroup, unit: int, what: str) -> list[tuple[Tensor, Tensor]]:
    """The parameters of "rows", "columns" or "carriers" with the mask of one unit's elements."""
    named, found = dict(model.named_parameters()), []
    chosen = torch.arange(group.width) == unit
    for axis in getattr(group, what):
        value = named[axis.name].data
        found.append((value, axis.spread(chosen, value.ndim).expand_as(value)))
    return found


def outputs(model: nn.Module, inputs: tuple) -> Tensor:
    was = model.training
    with torch.no_grad():
        found = torch.cat([t.flatten() for t in tensors_in(model.eval()(*copy.deepcopy(inputs)))])
    model.train(was)
    return found


def trained(model: nn.Module, inputs: tuple, optimizer: torch.optim.Optimizer, before: Callable[[], None]) -> None:
    optimizer.zero_grad()
    sum(t.square().mean() for t in tensors_in(model(*inputs))).backward()  # type: ignore[union-attr]
    before()
    optimizer.step()


def treatable(model: nn.Module, inputs: tuple) -> list[UnitGroup]:
    return [g for g in trace_units(model, inputs).groups if g.nonlinearity != "linear"]


@pytest.mark.parametrize("name", [*part_of(PLAIN), *NORMED])
def test_recycled_dead_units_go_unnoticed_unless_a_norm_mixes_and_learn_again(name: str) -> None:
    model, inputs = build(name)
    for value in model.parameters():
        value.data += 0.1 * torch.randn_like(value)  # nothing is zero by chance
    group = next(g for g in treatable(model, inputs) if bool(g.mixers) == (name in NORMED))
    unit = group.width // 2
    for value, mine in [p for what in ("rows", "carriers") for p in places(model, group, unit, what)]:
        value[mine] = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    run = homeostat.attach(model, optimizer, treatments=[ReDo(threshold=0.0, every=1)])
    seen: list[Tensor] = []
    trained(model.train(), inputs, optimizer, lambda: seen.append(outputs(model, inputs)))
    run.detach()
    gap = float((outputs(model, inputs) - seen[0]).abs().max())
    assert all(value[mine].any() for value, mine in places(model, group, unit, "rows") if value.ndim > 1)
    assert not any(value[mine].any() for value, mine in places(model, group, unit, "columns"))
    assert (gap > 1e-6) if group.mixers else (gap <= 1e-6)
    learns_again(model, inputs, group, unit)


def learns_again(model: nn.Module, inputs: tuple, group: UnitGroup, unit: int) -> None:
    """Outgoing weights move in the first step, incoming ones in the second."""
    rows = [value[mine].clone() for value, mine in places(model, group, unit, "rows")]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        trained(model, inputs, optimizer, lambda: None)
    assert any(value[mine].any() for value, mine in places(model, group, unit, "columns"))
    now = [value[mine] for value, mine in places(model, group, unit, "rows")]
    assert any(not torch.equal(a, b) for a, b in zip(rows, now, strict=True))


@pytest.mark.parametrize(
    "name", ["fused_gpt", "torchvision_resnet", "swiglu", "conv_net", "gru", "lstm_policy", "unet"]
)
def test_continual_backprop_replaces_units_on_any_network(name: str) -> None:
    model, inputs = build(name)
    names = {g.layer for g in treatable(model, inputs)}
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    treatment = ContinualBackprop(replacement_rate=0.05, maturity_threshold=2)
    run = homeostat.attach(model, optimizer, treatments=[treatment])
    for _ in range(12):
        trained(model.train(), inputs, optimizer, lambda: None)
    run.detach()
    entries = [e for e in run.journal() if e.component == treatment.name]
    assert {e.action for e in entries} <= {"attach", "edit"}, entries
    assert len({e.where for e in entries if e.action == "edit"}) >= len(names)
    assert bool(torch.isfinite(outputs(model, inputs)).all())


def test_linear_units_are_reset_only_when_asked_for() -> None:
    model, inputs = build("lora")
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    for linear, action in ((False, "refuse"), (True, "edit")):
        treatment = ContinualBackprop(replacement_rate=0.2, maturity_threshold=1, linear=linear)
        run = homeostat.attach(model, optimizer, treatments=[treatment])
        for _ in range(8):
            trained(model, inputs, optimizer, lambda: None)
        run.detach()
        assert action in {e.action for e in run.journal()}
