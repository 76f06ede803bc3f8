"""Every pairing found on the grid, by brute force in float64 on the network itself: nothing here is the tracer's way.

A unit is changed row by row with index lists, and hooks on the consumers say where that shows.
"""

from __future__ import annotations

import copy
import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import nets
import nets_attention
import nets_conv
import nets_dense
import pytest
import torch
import torch.nn.functional as F
from nets_expected import CASES
from torch import Tensor, nn

from homeostat.core.units import Axis, UnitGroup
from homeostat.shell.unit_graph.module_roles import tensors_in
from homeostat.shell.unit_graph.trace import Tap, UnitGraph, trace_units

assert nets_attention and nets_conv and nets_dense  # they register their networks
GRID = [*nets.NETS, *CASES]
HIDDEN = ("weight_hh", "bias_hh")


@functools.cache
def traced(name: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any], UnitGraph]:
    if name in CASES:
        (model, inputs), kwargs = CASES[name].build(), CASES[name].kwargs
    else:
        (model, inputs), kwargs = nets.build(name), {}
    return model, inputs, kwargs, trace_units(model, inputs, kwargs)


@pytest.mark.parametrize("name", CASES)
def test_every_layer_is_paired_or_refused_as_expected(name: str) -> None:
    trace, case = traced(name)[3], CASES[name]
    assert summary(trace.groups) == case.paired
    assert summary(trace.unread) == case.unread
    assert trace.refused.keys() == case.refused.keys()
    for layer, words in case.refused.items():
        assert words in trace.refused[layer], (layer, trace.refused[layer])
    assert {g.layer: " ".join(g.mixers) for g in trace.groups if g.mixers} == case.mixed
    assert {g.layer for g in trace.groups} <= trace.taps.keys()


def summary(groups: tuple[UnitGroup, ...]) -> dict[str, tuple[int, str]]:
    return {g.layer: (g.width, " ".join(axis.name for axis in g.columns)) for g in groups}


def test_the_grid_is_wide_enough() -> None:
    assert sum(bool(traced(name)[3].groups) for name in GRID) >= 50


class Twin:
    """The network in float64 with random parameters, evaluated; norms that mix units are left out.

    Left out are only those the groups name: an unnamed one would make the checks below fail.
    """

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        model, inputs, self.kwargs, trace = traced(name)
        self.groups = (*trace.groups, *trace.unread)
        self.model = copy.deepcopy(model).double().train(name == "training_head")
        self.inputs = nets_map(lambda t: t.double() if t.is_floating_point() else t, inputs)
        self.dice = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        for p in self.model.parameters():
            p.data = self.noise(p) * 0.4
        modules = dict(self.model.named_modules())
        for mixer in {mixer for group in self.groups for mixer in group.mixers}:
            if mixer in modules:
                modules[mixer].forward = lambda x: x
            else:
                monkeypatch.setattr(F, mixer.split()[0], lambda x, *_, **__: x)

    def noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.dice, dtype=torch.float64)

    def run(self) -> list[Tensor]:
        torch.manual_seed(0)
        with torch.no_grad():
            return [t.clone() for t in tensors_in(self.model(*copy.deepcopy(self.inputs), **self.kwargs))]

    def value(self, name: str) -> Tensor:
        owner, _, key = name.rpartition(".")
        return getattr(self.model.get_submodule(owner), key).data

    def write(self, axis: Axis, unit: int, new: Callable[[Tensor], Tensor]) -> None:
        """Change one unit's slices of a parameter or buffer, one index after the other."""
        value, size = self.value(axis.name), self.value(axis.name).shape[axis.dim]
        for index, owner in enumerate(axis.owner.tolist()):
            if owner == unit:
                block, place = divmod(index, size)
                rows = value[block * axis.depth : (block + 1) * axis.depth] if axis.groups > 1 else value
                piece = rows.select(axis.dim, place)
                piece.copy_(new(piece))

    def renew(self, group: UnitGroup, unit: int, skip: tuple[str, ...] = ()) -> None:
        """Give a unit other rows, carriers and buffers."""
        for axis in (*group.rows, *group.carriers):
            if not any(word in axis.name for word in skip):
                self.write(axis, unit, lambda piece: self.noise(piece) * 2)
        for axis in group.buffers:
            self.write(axis, unit, lambda piece: self.noise(piece).abs() + 0.5)

    def cut(self, group: UnitGroup, unit: int, but: Axis | None = None) -> None:
        """Zero a unit's columns, all or all but those of one consumer."""
        for axis in group.columns:
            if axis is not but:
                self.write(axis, unit, torch.zeros_like)

    def fork(self) -> Twin:
        other = copy.copy(self)
        with torch.no_grad():
            other.model = copy.deepcopy(self.model)
        for path, module in other.model.named_modules():
            if "forward" in vars(self.model.get_submodule(path)):
                module.forward = lambda x: x
        return other


def nets_map(fn: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, dict):
        return {k: nets_map(fn, v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(nets_map(fn, v) for v in value)
    return fn(value) if isinstance(value, Tensor) else value


@pytest.fixture(autouse=True)
def plainly() -> Iterator[None]:
    """In float64, and not by the fused encoder path, which calls no submodules."""
    torch.set_default_dtype(torch.float64)
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.set_default_dtype(torch.float32)
    torch.backends.mha.set_fastpath_enabled(True)


def units_of(group: UnitGroup) -> list[int]:
    return sorted({0, group.width // 2, group.width - 1})


def close(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.allclose(x.double(), y.double(), rtol=1e-9, atol=1e-11) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", GRID)
def test_a_unit_without_columns_may_be_anything_and_one_with_columns_matters(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = Twin(name, monkeypatch)
    for group in twin.groups:
        for unit in units_of(group):
            cut = twin.fork()
            cut.cut(group, unit)
            before = cut.run()
            cut.renew(group, unit)
            assert close(before, cut.run()), (group.layer, unit)
        whole, all_units = twin.run(), twin.fork()
        for unit in range(group.width):
            all_units.renew(group, unit)
        assert not close(whole, all_units.run()), group.layer


FEATURES = {nn.Conv1d: -2, nn.ConvTranspose1d: -2, nn.Conv2d: -3, nn.ConvTranspose2d: -3, nn.Conv3d: -4}


def consumer(twin: Twin, axis: Axis) -> nn.Module | None:
    """The module whose only input the columns use, if there is one that is called."""
    path, _, key = axis.name.rpartition(".")
    module = twin.model.get_submodule(path)
    plain = key == "weight" or key.startswith("weight_ih_l0")
    return module if plain and not path.endswith("out_proj") else None


def inputs_of(twin: Twin, module: nn.Module, change: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
    """The module's inputs in a forward pass, one a call, features last; perhaps changed on the way."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...]) -> Any:
        seen.append(args[0].movedim(FEATURES.get(type(module), -1), -1).clone())
        return None if change is None else (change(args[0]), *args[1:])

    handle = module.register_forward_pre_hook(hook)
    outputs = twin.run()
    handle.remove()
    return seen if change is None else outputs


@pytest.mark.parametrize("name", GRID)
def test_a_unit_shows_at_its_own_features_and_nowhere_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = Twin(name, monkeypatch)
    for key, value in twin.model.named_parameters():
        if any(word in key for word in HIDDEN):
            value.data.zero_()  # a unit reaches its neighbours in the next step of a sequence
    for group in twin.groups:
        for axis in group.columns:
            module = consumer(twin, axis)
            for unit in units_of(group) if module is not None else ():
                mine = [owner == unit for owner in axis.owner.tolist()]
                assert gathered(functools.partial(changed, twin, group, axis, unit), mine) == mine, (
                    group.layer,
                    axis.name,
                )


def gathered(look: Callable[[], Tensor], wanted: list[bool]) -> list[bool]:
    """Everything that ever changes in repeated looks; looks end when that is more than is wanted, or all of it."""
    shown = torch.zeros(len(wanted), dtype=torch.bool)
    for _ in range(30):  # a rectified unit may be silent for all of six samples
        shown |= look()
        if shown.sum() >= sum(wanted):
            break
    return shown.tolist()


def changed(twin: Twin, group: UnitGroup, axis: Axis, unit: int) -> Tensor:
    """Input features of a consumer that change with a unit when it reaches nothing else."""
    alone = twin.fork()
    alone.cut(group, unit, but=axis)
    module = consumer(alone, axis)
    assert module is not None
    before = inputs_of(alone, module)
    alone.renew(group, unit, skip=HIDDEN)
    after = inputs_of(alone, module)
    assert before
    return torch.stack([(a != b).flatten(0, -2).any(0) for a, b in zip(before, after, strict=True)]).any(0)


@pytest.mark.parametrize("name", GRID)
def test_what_a_constant_unit_adds_is_a_matter_of_the_named_bias(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = Twin(name, monkeypatch)
    for group in twin.groups:
        assert len(group.consumer_biases) == len(group.columns)
        for axis in group.columns:
            module = consumer(twin, axis)
            if (module is not None and isinstance(module, (nn.Linear, nn.RNNBase))) or unpadded(module):
                check_fold(twin, group, module)


def unpadded(module: nn.Module | None) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd) and not any(module.padding)


def check_fold(twin: Twin, group: UnitGroup, module: Any) -> None:
    """A constant unit is the same as none, with what the consumer makes of it added to the bias."""
    unit, folded = group.width // 2, twin.fork()
    mine = None
    for axis, bias in zip(group.columns, group.consumer_biases, strict=True):
        if consumer(twin, axis) is module:
            if bias is None:
                return
            mine = torch.tensor([owner == unit for owner in axis.owner.tolist()])
            folded.write(axis, unit, torch.zeros_like)
            folded.value(bias).add_(response(twin.value(axis.name), mine.double() * 0.7, axis))
    assert close(inputs_of(twin, module, lambda x: filled(x, module, mine)), folded.run()), group.layer


def filled(x: Tensor, module: nn.Module, mine: Tensor | None) -> Tensor:
    last = x.movedim(FEATURES.get(type(module), -1), -1)
    assert mine is not None
    return torch.where(mine, 0.7, last).movedim(-1, FEATURES.get(type(module), -1))


def response(weight: Tensor, features: Tensor, axis: Axis) -> Tensor:
    """What a layer makes of constant features: one block of outputs after the other."""
    if weight.ndim == 2:
        return features @ weight if axis.dim == 0 else weight @ features
    blocks = zip(weight.chunk(axis.groups), features.chunk(axis.groups), strict=True)
    return torch.cat([rows.flatten(2).sum(-1) @ part for rows, part in blocks])


@pytest.mark.parametrize("name", GRID)
def test_taps_read_every_unit_and_only_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    twin, trace = Twin(name, monkeypatch), traced(name)[3]
    for key, value in twin.model.named_parameters():
        if any(word in key for word in HIDDEN):
            value.data.zero_()
    for group in trace.groups:
        unit, tap = group.width // 2, trace.taps[group.layer]
        before = captured(twin, tap)
        assert before.ndim == 2 and before.shape[1] == group.width
        mine = [u == unit for u in range(group.width)]
        assert gathered(functools.partial(moved, twin, group, unit, tap), mine) == mine, group.layer
        if group.nonlinearity == "relu":
            assert float(before.min()) == 0.0


def moved(twin: Twin, group: UnitGroup, unit: int, tap: Tap) -> Tensor:
    """Units whose reading changes with one unit."""
    other = twin.fork()
    other.renew(group, unit, skip=HIDDEN)
    return (captured(twin, tap) != captured(other, tap)).any(0)


def captured(twin: Twin, tap: Tap) -> Tensor:
    seen: list[Tensor] = []
    module = twin.model.get_submodule(tap.module)
    add = module.register_forward_pre_hook if tap.side == "input" else module.register_forward_hook
    handle = add(lambda m, *given: seen.append(tap.units(tap.read(*given)).clone()), with_kwargs=True)
    twin.run()
    handle.remove()
    assert len(seen) == 1
    return seen[0]
