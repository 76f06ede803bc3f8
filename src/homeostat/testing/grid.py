"""Small awkward networks with known unit groups, on which the laws of treatments are checked."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from homeostat.core.random import derived_seed
from homeostat.core.treatment import Fresh, Treatment
from homeostat.core.units import Axis, UnitGroup
from homeostat.shell.unit_graph.init_distributions import fresh_distributions
from homeostat.testing import grid_nets as nets


@dataclass(frozen=True)
class Case:
    """One network of the grid.

    Args:
        name: what is awkward about it.
        make: builds the network with torch's global generator, which `build` seeds.
        groups: its unit groups, written down by hand.
        taps: layer of a group -> module whose output is the units' activation.
        inputs: shape of one input.
        batch: items per batch.
        dtype: of network and inputs.
        tokens: if set, inputs are integers below this number.
        axis: axis of the units in a tap's output: 1 or -1.
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
    tokens: int = 0
    axis: int = 1
    dead: Mapping[str, int] = field(default_factory=dict)
    quiet: Mapping[str, int] = field(default_factory=dict)

    def build(self, seed: int = 0) -> nn.Module:
        """The network for a seed; torch's global random state is restored."""
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
        """Inputs, and targets in [0, 3), of one step."""
        g = torch.Generator().manual_seed(derived_seed(self.name, "data", step))
        if self.tokens:
            inputs = torch.randint(self.tokens, (self.batch, *self.inputs), generator=g)
        else:
            inputs = torch.randn(self.batch, *self.inputs, generator=g, dtype=torch.float64).to(self.dtype)
        return inputs, torch.randint(3, (self.batch,), generator=g)


_NORMS = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)


def fresh_of(model: nn.Module) -> dict[str, Fresh]:
    """Initial distributions: uniform within 1/sqrt(fan in) for linear and convolutional layers, 1 and 0 for norms,
    the present values for other parameters."""
    found = fresh_distributions(model)
    for name, module in model.named_modules():
        for key in (f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)):
            if type(module) in (nn.Linear, nn.Conv2d):
                weight = module.get_parameter("weight")
                found[key] = Fresh("uniform", 1 / math.sqrt(weight[0].numel()))
            elif isinstance(module, _NORMS):
                found[key] = Fresh("constant", mean=1.0 if key.endswith("weight") else 0.0)
    return found


def norms_of(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that belong to norms."""
    owners = [name for name, module in model.named_modules() if isinstance(module, _NORMS)]
    return frozenset(f"{owner}.{key}" for owner in owners for key, _ in model.get_submodule(owner).named_parameters())


def group(layer: str, width: int, consumer: str, *, norm: str = "", positions: int = 1, bias: bool = True) -> UnitGroup:
    """The unit group of a Linear or Conv2d `layer` used by `consumer`, with `positions` inputs a unit (flatten)."""
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


def joined(one: UnitGroup, other: UnitGroup | None = None, made_by: str = "") -> UnitGroup:
    """A group with the consumers of two groups, or with rows of a second layer (a gate and its value)."""
    more = (Axis(f"{made_by}.weight", 0, torch.arange(one.width)),) if made_by else ()
    columns, biases = (other.columns, other.consumer_biases) if other else ((), ())
    return replace(
        one,
        rows=(*one.rows, *more),
        columns=(*one.columns, *columns),
        consumer_biases=(*one.consumer_biases, *biases),
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


def _batch_normed(wide: bool = False) -> Callable[[], nn.Module]:
    """A chain of linear or convolutional layers with batch normalisation after each hidden layer."""

    def make() -> nn.Module:
        first, second = (
            (nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3, stride=2)) if wide else (nn.Linear(5, 12), nn.Linear(12, 9))
        )
        norm, sizes = (nn.BatchNorm2d, (4, 3)) if wide else (nn.BatchNorm1d, (12, 9))
        return nn.Sequential(
            OrderedDict(
                fc1=first, bn1=norm(sizes[0]), a1=nn.ReLU(), fc2=second, bn2=norm(sizes[1]), a2=nn.ReLU(),
                flat=nn.Flatten(), out=nn.Linear(12 if wide else 9, 3),
            )
        )  # fmt: skip

    return make


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


NARROW = Case("layers of one unit", nets.narrow, (group("0", 1, "2"), group("2", 1, "4")), {"0": "1", "2": "3"})
IN_PLACE = Case(
    "activations in place", nets.lazy_activations, (group("0", 10, "3"), group("3", 6, "5")), {"0": "1", "3": "4"}
)
GROUPED = Case("grouped convolutions", nets.grouped, (group("2", 6, "6"),), {"2": "3"}, inputs=(2, 7, 7))
TIED = Case("tied weights", nets.Tied, (group("fc1", 9, "fc2"),), {"fc1": "act"}, inputs=(4,), tokens=10)
TWICE = Case("a module called twice", nets.Twice, (), {})
HEADS = Case(
    "two heads", nets.Heads, (joined(group("trunk", 11, "policy"), group("trunk", 11, "value")),), {"trunk": "act"}
)
PARAMETRIZED = Case("weight normalisation", nets.Parametrized, (group("fc3", 7, "out"),), {"fc3": "act3"})
EMBEDDED = Case(
    "an embedding and a sequence", nets.Embedded, (group("fc", 9, "out"),), {"fc": "act"}, (4,), tokens=12, axis=-1
)
RECURRENT = Case("a GRU", nets.Recurrent, (group("fc", 8, "out"),), {"fc": "act"}, inputs=(4, 5))
GATED = Case(
    "a gated block", nets.Gated, (joined(group("gate", 10, "down", bias=False), made_by="up"),), {"gate": "mix"}
)
ADAPTED = Case("a low-rank adapter on a frozen layer", nets.Adapted, (group("fc", 8, "out"),), {"fc": "act2"})

_BATCH_NORMED = {
    "groups": (group("fc1", 12, "fc2", norm="bn1"), group("fc2", 9, "out", norm="bn2")),
    "taps": {"fc1": "a1", "fc2": "a2"},
}
BATCH_NORMED = {
    MLP.name: Case("batch norm", _batch_normed(), **_BATCH_NORMED),
    DOUBLE.name: Case("batch norm, float64", _batch_normed(), **_BATCH_NORMED, dtype=torch.float64),
    HALF.name: Case("batch norm, bfloat16", _batch_normed(), **_BATCH_NORMED, dtype=torch.bfloat16),
    CONV.name: Case(
        "convolutions with batch norm",
        _batch_normed(wide=True),
        (group("fc1", 4, "fc2", norm="bn1"), group("fc2", 3, "out", norm="bn2", positions=4)),
        {"fc1": "a1", "fc2": "a2"},
        inputs=(1, 7, 7),
    ),
}
"""Name of a network of the grid -> the same network with batch normalisation."""


def suited(case: Case, treatment: Treatment) -> Case:
    """The network, or its variant with batch normalisation if the treatment needs batch normalisation."""
    return BATCH_NORMED[case.name] if treatment.needs_batch_norm else case


PLAIN = (MLP, TANH, DEAD, NORMED, CONV, NO_BIAS, FROZEN, DOUBLE, HALF)
"""Chains of layers."""
MET = (NARROW, IN_PLACE, GROUPED, TIED, TWICE, HEADS, PARAMETRIZED, EMBEDDED, RECURRENT, GATED, ADAPTED)
"""Networks that are not chains of layers."""
GRID = (*PLAIN, *MET)
