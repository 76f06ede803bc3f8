"""The order of the layers is read from the graph of a loss."""

from __future__ import annotations

import torch
from torch import nn

from homeostat.core.snapshot import layer_of
from homeostat.shell.hooks.layer_order import layers_after


def test_branches_are_apart_and_a_residual_connection_counts():
    net = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("trunk", "inner", "actor", "critic", "unused")})
    x = net["trunk"](torch.randn(3, 4)).relu()
    x = x + net["inner"](x)
    loss = net["actor"](x).sum() + net["critic"](x).square().mean()
    found = layers_after(loss, {id(p): layer_of(name) for name, p in net.named_parameters()})
    assert found == {
        "trunk": {"inner", "actor", "critic"},
        "inner": {"actor", "critic"},
        "actor": set(),
        "critic": set(),
    }
    assert not layers_after(torch.zeros(()), {})
