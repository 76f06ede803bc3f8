"""Small nasty networks with known unit groups, on which the laws of treatments run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from homeostat.core.draw import derived_seed
from homeostat.core.treatment import Fresh
from homeostat.core.units import Axis, UnitGroup


@dataclass(frozen=True)
class Case:
    """One network of the grid.

    Args:
        name: what is nasty about it.
        make: builds the network; its randomness comes from torch's global generator, seeded by `build`.
        groups: its unit groups, written down by hand.
        taps: layer of a group -> module whose output is the units' activation.
        inputs: shape of one input.
        batch: items a batch.
        dtype: of network and inputs.
        dead: layer -> number of leading units made dead by a large negative bias.
        quiet: layer -> number of leading units made nearly silent by small incoming weights.
    """

    name: str
    make: Callable[[], nn.Module]
    groups: tuple[UnitGroup, ...]
    taps: Mapping[str, str]
    inputs: tuple[int, ...] = (5,)
    batch: int = 8
    dtype: torch.dtype = torch.float32
    dead: Mapping[str, int] = field(default_factory=dict)
    quiet: Mapping[str, int] = field(default_factory=dict)

    def build(self, seed: int = 0) -> nn.Module:
        """The network, always the same for a seed; torch's global randomness is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.name, seed))
            model = self.make().to(self.dtype)
        with torch.no_grad():
            for layer, count in self.dead.items():
                model.get_parameter(f"{layer}.bias")[:count] = -10.0
            for layer, count in self.quiet.items():
                for parameter in model.get_submodule(layer).parameters():
                    parameter[:count] *= 1e-3
        return model

    def data(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets in [0, 3) of one step."""
        g = torch.Generator().manual_seed(derived_seed(self.name, "data", step))
        inputs = torch.randn(self.batch, *self.inputs, generator=g, dtype=torch.float64).to(self.dtype)
        return inputs, torch.randint(3, (self.batch,), generator=g)


def fresh_of(model: nn.Module) -> dict[str, Fresh]:
    """Initial distributions of torch's own layers: uniform within 1/sqrt(fan in); norms start at 1 and 0."""
    found: dict[str, Fresh] = {}
    for name, module in model.named_modules():
        for key, value in module.named_parameters(name, recurse=False):
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                found[key] = Fresh("uniform", 1 / math.sqrt(module.weight[0].numel()))
            else:
                found[key] = Fresh("constant", mean=1.0 if key.endswith("weight") else 0.0)
            assert value.ndim > 0
    return found


def norms_of(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that belong to norms."""
    kinds = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)
    owners = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    return frozenset(f"{owner}.{key}" for owner in owners for key, _ in model.get_submodule(owner).named_parameters())


def group(layer: str, width: int, consumer: str, *, norm: str = "", positions: int = 1, bias: bool = True) -> UnitGroup:
    """The unit group of a Linear or Conv2d `layer` used by `consumer`, `positions` inputs a unit after a flatten."""
    units = torch.arange(width)

    def axes(owner: str, *keys: str) -> tuple[Axis, ...]:
        return tuple(Axis(f"{owner}.{key}", 0, units) for key in keys)

    return UnitGroup(
        layer,
        width,
        rows=axes(layer, "weight", "bias") if bias else axes(layer, "weight"),
        columns=(Axis(f"{consumer}.weight", 1, units.repeat_interleave(positions)),),
        carriers=axes(norm, "weight", "bias") if norm else (),
        buffers=axes(norm, "running_mean", "running_var") if norm.startswith("bn") else (),
        consumer_biases=(f"{consumer}.bias" if bias else None,),
    )


def _mlp(act: type[nn.Module] = nn.ReLU, bias: bool = True) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Linear(5, 12, bias), act(), nn.Linear(12, 9, bias), act(), nn.Linear(9, 3, bias)
    )  # fmt: skip


def _normed() -> nn.Module:
    layers = {
        "fc1": nn.Linear(5, 10), "ln": nn.LayerNorm(10), "a1": nn.GELU(),
        "fc2": nn.Linear(10, 8), "bn": nn.BatchNorm1d(8), "a2": nn.ReLU(), "out": nn.Linear(8, 3),
    }  # fmt: skip
    model = nn.Sequential()
    for name, module in layers.items():
        model.add_module(name, module)
    return model


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
    )


def _frozen() -> nn.Module:
    model = _mlp()()
    model.get_submodule("0").requires_grad_(False)
    return model


_MLP = {"groups": (group("0", 12, "2"), group("2", 9, "4")), "taps": {"0": "1", "2": "3"}}
_NO_BIAS = {"groups": (group("0", 12, "2", bias=False), group("2", 9, "4", bias=False)), "taps": {"0": "1", "2": "3"}}

MLP = Case("mlp", _mlp(), **_MLP)
TANH = Case("tanh, some nearly silent", _mlp(nn.Tanh), **_MLP, quiet={"0": 3, "2": 2})
DEAD = Case("dead units", _mlp(), **_MLP, dead={"0": 4, "2": 3})
NORMED = Case(
    "layer norm and batch norm",
    _normed,
    (group("fc1", 10, "fc2", norm="ln"), group("fc2", 8, "out", norm="bn")),
    {"fc1": "a1", "fc2": "a2"},
)
CONV = Case(
    "convolutions and a flatten",
    _conv,
    (group("0", 4, "2"), group("2", 3, "5", positions=4)),
    {"0": "1", "2": "3"},
    inputs=(1, 7, 7),
)
NO_BIAS = Case("no biases, batch of one", _mlp(bias=False), **_NO_BIAS, batch=1)
FROZEN = Case("first layer frozen", _frozen, **_MLP)
DOUBLE = Case("float64", _mlp(), **_MLP, dtype=torch.float64)
HALF = Case("bfloat16", _mlp(), **_MLP, dtype=torch.bfloat16)

GRID = (MLP, TANH, DEAD, NORMED, CONV, NO_BIAS, FROZEN, DOUBLE, HALF)
