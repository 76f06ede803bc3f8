"""Finds where a layer's units can be read after their nonlinearity, and names the nonlinearity."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homeostat.shell.hooks.module_tree import named_modules_in
from homeostat.shell.unit_graph.groups import Pairing
from homeostat.shell.unit_graph.module_roles import tensors_in
from homeostat.shell.unit_graph.pinned_model import Palette, PinnedCopy, Spot
from homeostat.shell.unit_graph.verify import Guess

ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.LeakyReLU: "leaky_relu",
    nn.RReLU: "leaky_relu",
    nn.PReLU: "prelu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.ELU: "elu",
    nn.CELU: "celu",
    nn.SELU: "selu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.LogSigmoid: "logsigmoid",
    nn.Hardtanh: "hardtanh",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Hardswish: "hardswish",
    nn.Hardshrink: "hardshrink",
    nn.Softshrink: "softshrink",
    nn.Tanhshrink: "tanhshrink",
    nn.Softplus: "softplus",
    nn.Softsign: "softsign",
    nn.Mish: "mish",
    nn.Threshold: "threshold",
}
MAX_ROWS = 4096
"""Largest number of samples per layer and step; more would cost memory and improve no vital."""
_GRID = (-8.0, -2.0, -1.0, -0.3, 0.4, 1.5, 3.0, 8.0)
_KNOWN = "relu relu6 gelu silu elu selu tanh sigmoid softplus softsign mish hardtanh hardsigmoid hardswish".split()
_CANDIDATES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "gelu (tanh)": lambda x: F.gelu(x, approximate="tanh"),
    **{name: getattr(F, name) for name in _KNOWN},
}
"""Activations with default settings that are recognised by their values."""


@dataclass(frozen=True, eq=False)
class Tap:
    """Where to read the units of one layer.

    Args:
        module: path of the module to hook; it is called once in a forward pass.
        side: whether to read the "input" of the module (in a forward pre-hook, because an in-place activation
            overwrites it) or its "output".
        axis: feature axis of the tensor there, counted from the end.
        index: positions along that axis that belong to each unit [H, r]; None if they are the units in order.
        nonlinearity: function between the layer's linear map (and its norm) and this place: "relu", "gelu", ...,
            "linear" or "unknown".
    """

    module: str
    side: Literal["input", "output"]
    axis: int = -1
    index: Tensor | None = None
    nonlinearity: str = "unknown"

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any = None) -> Tensor | None:
        """The tensor at the tap, from the arguments of a forward hook; None if there is none.

        Copy it to keep it, because it may be overwritten.
        """
        return next(iter(tensors_in(output if self.side == "output" else (args, kwargs))), None)

    def units(self, tensor: Tensor) -> Tensor:
        """A captured tensor as [N, H]; every position of every sample is a row."""
        rows = tensor.movedim(self.axis, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        if self.index is None:
            return rows
        return rows[:, self.index.to(rows.device)].movedim(-1, 1).reshape(-1, self.index.shape[0])


def find_taps(pins: PinnedCopy, pairing: Pairing, heard: Mapping[str, Tap]) -> dict[str, Tap]:
    """A tap for every layer whose units can be read at one place.

    Args:
        heard: results of the first pass. Units of several rows, and units that it could not follow, are read where they
            are used.
    """
    pairs = zip(pairing.groups, pairing.guesses, strict=True)
    asked = {group.layer: guess for group, guess in pairs if guess.members.shape[1] > 1 or group.layer not in heard}
    used = {layer: (guess, *place) for layer, guess in asked.items() if (place := _where_used(guess, pins)) is not None}
    response: dict[str, list[float]] = {layer: [] for layer in used}
    for constant in _GRID if used else ():
        snapshot = pins.run(Palette(constant))
        for layer, (guess, spot, _) in used.items():
            values = snapshot[spot][:, (guess.owner[spot] >= 0).to(snapshot[spot].device)].double()
            value, spread = float(values.mean()), float(values.amax() - values.amin())
            response[layer].append(value if spread <= 1e-4 * (1 + abs(value)) else math.nan)
    rows = {layer: guess.summed or guess.members.shape[1] for layer, (guess, _, _) in used.items()}
    named = {la: replace(u[2], nonlinearity=infer_nonlinearity(response[la], rows[la])) for la, u in used.items()}
    return {**heard, **named}


def _where_used(guess: Guess, pins: PinnedCopy) -> tuple[Spot, Tap] | None:
    """The input of a consumer, and the place to read it: there, or at a module that the same tensor passes."""
    for spot, owner in guess.owner.items():
        index, reader = positions(owner, guess.width), pins.parts.parts[spot.path]
        if index is None or reader.layout is None:
            continue
        value, order = pins.passing[spot.path, "input"], list(pins.passing)
        # the nearest place first, because with the chosen values an activation may be the identity
        for path, side in reversed(order[: order.index((spot.path, "input")) + 1]):
            if path in pins.modules and pins.calls.get(path) == 1 and torch.equal(pins.passing[path, side], value):
                plain = index.shape[1] == 1 and torch.equal(index[:, 0], torch.arange(len(owner)))
                return spot, Tap(path, side, reader.axis, None if plain else index)
    return None


def observation_taps(model: nn.Module) -> dict[str, Tap]:
    """Taps without an example call: outputs of activation modules, by their own path, features last.

    They do not distinguish images from sequences; read 4-dimensional tensors with axis -3.
    """
    return {
        path: Tap(path, "output", -1, None, ACTIVATIONS[type(module)])
        for path, module in named_modules_in(model)
        if type(module) in ACTIVATIONS
    }


def positions(owner: Tensor, width: int) -> Tensor | None:
    """Positions of each unit [H, r], from the unit of each feature (-1 for none); None if their number differs."""
    where = (owner >= 0).nonzero()[:, 0]
    counts = torch.bincount(owner[where], minlength=width)
    if int(counts.min()) == 0 or int(counts.min()) != int(counts.max()):
        return None
    return where[torch.argsort(owner[where], stable=True)].reshape(width, -1)


def infer_nonlinearity(response: list[float], rows: int = 1) -> str:
    """The name of the function that gives `response` on the grid of constants, or "unknown".

    Args:
        rows: rows of a unit. All have the constant as output, so a function of their sum is recognised, but not a gate.
    """
    grid, got = rows * torch.tensor(_GRID, dtype=torch.float64), torch.tensor(response, dtype=torch.float64)
    for name, function in _CANDIDATES.items():
        if bool(torch.isclose(got, function(grid), rtol=1e-4, atol=1e-5).all()):
            return name.partition(" ")[0]
    negative, slopes = grid < 0, got / grid
    leaky = bool((slopes[~negative] - 1).abs().max() < 1e-4) and bool((slopes[negative] - slopes[0]).abs().max() < 1e-4)
    return "leaky_relu" if leaky and 0 < float(slopes[0]) < 1 else "unknown"


def match_function(before: Tensor, after: Tensor) -> str | None:
    """The name of the elementwise function that gives `after` [N, H] of `before` [N, H], if it is a known one."""
    rows = min(len(before), len(after))
    if not rows or before.shape[1:] != after.shape[1:]:
        return None
    single = torch.float16 not in (before.dtype, after.dtype) and torch.bfloat16 not in (before.dtype, after.dtype)
    tolerance = 1e-4 if single else 2e-2
    before, after = before[:rows].float(), after[:rows].float()
    for name, function in _CANDIDATES.items():
        if name != "linear" and torch.allclose(function(before), after, rtol=tolerance, atol=tolerance / 10):
            return name.partition(" ")[0]
    return None
