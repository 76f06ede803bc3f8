"""Trace the unit graph of a network: which weights make each unit and which use it, found by experiment.

On a private copy every layer's output is pinned to chosen values. Units are selected by the bits of their number, and
the inputs of all other layers show on which unit each feature depends. A layer whose users cannot be shown is refused
with a reason. Neither the order of registration nor the autograd graph is used for this; the autograd graph only shows
where units are read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from homeostat.core.signals import pass_on
from homeostat.core.units import UnitGroup
from homeostat.shell.hooks.module_tree import named_modules_in
from homeostat.shell.hooks.torch_internals import own_parameters
from homeostat.shell.unit_graph.activation_points import Tap, find_taps, observation_taps
from homeostat.shell.unit_graph.dependencies import bits_of, follow
from homeostat.shell.unit_graph.first_pass import FirstPass
from homeostat.shell.unit_graph.groups import pair
from homeostat.shell.unit_graph.module_roles import Role, module_roles, tensors_in
from homeostat.shell.unit_graph.pinned_model import NARROW, PinnedCopy
from homeostat.shell.unit_graph.sandbox import (
    Untraceable,
    cut_batch,
    long_tokens,
    map_tensors,
    private_copy,
    quarantine,
    tracing,
)
from homeostat.shell.unit_graph.verify import failing_layers

SAMPLES = 2
"""Number of items of the batch that a trace uses."""
_LAYERS = (Role.UNITS, Role.RECURRENT, Role.ATTENTION, Role.OPEN, Role.OPAQUE)

__all__ = ["Tap", "UnitGraph", "observation_taps", "trace_units", "tracing"]


@dataclass(frozen=True, eq=False)
class UnitGraph:
    """The units of a network: where they are made, used and read.

    Args:
        groups: layers whose units may be reset, pruned or grown, with everything that makes, carries and uses them.
        refused: every other layer with parameters -> the reason.
        unread: groups whose units no hook can read (inside nn.MultiheadAttention). Their layers are refused too,
            because most treatments read what they treat.
        taps: layer -> where to read its units; also for some refused layers (frozen, tied), so that vitals can measure
            them.
        passes: forward passes of the copy.
        seconds: how long tracing took.
    """

    groups: tuple[UnitGroup, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    taps: Mapping[str, Tap] = field(default_factory=dict)
    unread: tuple[UnitGroup, ...] = ()
    passes: int = 0
    seconds: float = 0.0

    def group(self, layer: str) -> UnitGroup | None:
        """The group of a layer, if it has one."""
        return next((g for g in self.groups if g.layer == layer), None)


def trace_units(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    budget: float = 30.0,
) -> UnitGraph:
    """Find the unit groups of a network from one example call. Never raises; model and random streams stay unchanged.

    Args:
        args, kwargs: arguments of the network, e.g. one training batch.
        budget: seconds that a trace may take; beyond it every layer is refused with that reason.
    """
    began = time.perf_counter()
    try:
        with quarantine(model):
            trace = _traced(model, args, dict(kwargs or {}), budget)
    except Exception as error:  # the user's forward may fail in any way; training must go on
        pass_on(error)
        trace = _nothing(model, _reason(error))
    return replace(trace, seconds=time.perf_counter() - began)


def _reason(error: Exception) -> str:
    if isinstance(error, Untraceable):
        return str(error)
    return f"the example call failed while tracing ({type(error).__name__}: {str(error)[:200]})"


def _nothing(model: nn.Module, why: str) -> UnitGraph:
    try:
        layers = [part.path for part in module_roles(model).of(*_LAYERS)]
    except Exception as error:
        pass_on(error)
        layers = [name for name, module in named_modules_in(model) if own_parameters(module)]
    return UnitGraph(refused={layer: why for layer in layers})


def _traced(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], budget: float) -> UnitGraph:
    pins, args, kwargs = _pinned(model, args, kwargs)
    pins.deadline = time.perf_counter() + budget
    _check_budget(pins, budget)
    flow = follow(pins)
    pairing = pair(pins, flow)
    groups, refused = pairing.groups, pairing.refused
    taps = find_taps(pins, pairing, _heard(model, args, kwargs, pins.training))
    for layer in failing_layers(model, groups, args, kwargs, pins.training):
        refused[layer] = "resetting a disconnected unit changed the network's output, so something unseen uses it"
    unread = tuple(group for group in groups if group.layer not in taps and group.layer not in refused)
    for group in unread:
        refused[group.layer] = "its units can be paired, but there is no module at which a hook can read them"
    # the output of a refused layer that is added to a residual stream is not an activation
    taps = {la: tap for la, tap in taps.items() if la not in refused or tap.nonlinearity != "linear"}
    named = (replace(g, nonlinearity=taps[g.layer].nonlinearity) for g in groups if g.layer not in refused)
    return UnitGraph(tuple(named), refused, taps, unread, pins.passes)


def _heard(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> dict[str, Tap]:
    """The taps found by a pass of another copy."""
    copy = private_copy(model, training)
    listening = FirstPass(copy, lambda part: contextlib.nullcontext(), lambda: None)
    with torch.enable_grad():
        copy(*map_tensors(torch.clone, args), **map_tensors(torch.clone, kwargs))
    listening.remove()
    return {layer: tap for layer, (tap, _) in listening.taps().items()}


def _pinned(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[PinnedCopy, tuple[Any, ...], dict[str, Any]]:
    """Pin a copy on a few items and tokens of the batch, or on more if the network fails on few."""
    tensors = [tensor for tensor in tensors_in((args, kwargs)) if tensor.ndim]
    batch = tensors[0].shape[0] if tensors else 0
    sizes = [(min(SAMPLES, batch), True)] if long_tokens((args, kwargs)) else []
    sizes = [*sizes, (min(SAMPLES, batch), False), (batch, False)]
    for keep, shorten in dict.fromkeys(sizes):
        some_args, some_kwargs = cut_batch((args, kwargs), batch, keep, shorten)
        try:
            return _pinned_either_way(model, some_args, some_kwargs), some_args, some_kwargs
        except Exception as error:
            pass_on(error)
            if keep == batch and not shorten:
                raise
    raise AssertionError("unreachable")


def _pinned_either_way(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PinnedCopy:
    """Use evaluation mode, or training mode if that calls more layers, because auxiliary heads use units too."""
    pins = PinnedCopy(model, args, kwargs)
    if not pins.uncalled():
        return pins
    try:
        trained = PinnedCopy(model, args, kwargs, training=True)
    except Exception as error:
        pass_on(error)
        return pins
    return trained if len(trained.uncalled()) < len(pins.uncalled()) else pins


def _check_budget(pins: PinnedCopy, budget: float) -> None:
    if not pins.sources:
        raise Untraceable("it has no layers with parameters")
    began = time.perf_counter()
    pins.run(NARROW, torch.ones(pins.total, dtype=torch.bool))
    passes = 2 * bits_of(pins.total) + 2 * len(pins.sources) + 20
    needed = (time.perf_counter() - began) * passes
    if needed > budget:
        raise Untraceable(f"tracing it would take about {needed:.0f} s ({passes} passes), more than {budget:g} s")
