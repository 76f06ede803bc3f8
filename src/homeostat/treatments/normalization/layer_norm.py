"""Inserts layer normalisation into a network without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from homeostat.core.component import Cite
from homeostat.core.edits import Edit, ReplaceModule
from homeostat.core.errors import Refused
from homeostat.core.treatment import Stage, State, Treatment, View
from homeostat.core.units import UnitGroup
from homeostat.treatments.normalization.recast import recast
from homeostat.treatments.shapes import lead


@dataclass(frozen=True, kw_only=True)
class LayerNormInsertion(Treatment):
    """Insert a layer norm before every hidden nonlinearity. Replaces the layers before the first step.

        h = f(g * (z - mean(z)) / sqrt(var(z) + 1e-5) + b),  z = W x + c

    over the units of one sample. g starts at 1 and b at 0; both are trained in the optimizer group of W. A convolution
    is normalised over channels and positions (`GroupNorm` with one group). The layer keeps its name and parameters, and
    gains `<layer>.norm.weight` and `<layer>.norm.bias`. Layers that already have a norm, recurrent layers, parts of
    fused matrices and layers without a nonlinearity after them are not changed.

    No knobs, no state. Hooks on the layer are kept, with their handles; a forward hook then receives the normed output.

    Raises:
        Refused: there are no unit groups without a norm, or a layer is not a plain Linear or convolution.

    Source: Lyle, Zheng, Nikishin, Pires, Pascanu, Dabney (2023), arXiv:2303.01486 (the intervention that preserved
    plasticity best); Ba, Kiros, Hinton (2016), arXiv:1607.06450.

    >>> LayerNormInsertion().stage.value
    'modules'
    """

    cite = (
        Cite.of("plasticity-probe"),
        Cite("Ba, Kiros and Hinton", 2016, "Layer Normalization", "1607.06450"),
    )
    stage = Stage.MODULES
    needs_units = True
    optimizer_state = "kept for the layer's parameters; the norm's parameters join their group"
    declared: ClassVar[Mapping[str, str]] = {
        "lifts": "the replicas of a fleet share one module, which cannot be replaced: build the network with norms",
        "identity": "no setting keeps the function: a normalisation changes it for some input",
    }

    def plan(self, view: View, state: State, knobs: Mapping[str, Tensor]) -> tuple[Sequence[Edit], State]:
        if lead(view):
            raise Refused(self.name, "a fleet", "modules of stacked replicas cannot be replaced; build them with norms")
        groups = [g for g in view.units if not g.carriers and not g.buffers and not g.mixers and _plain(g)]
        if not groups:
            raise Refused(self.name, "the network", "no hidden layer without a norm was found in it")
        return [self._insert(group) for group in groups], state

    def _insert(self, group: UnitGroup) -> Edit:
        what = f"normalise the {group.width} units of {group.layer}"
        return ReplaceModule(group.layer, lambda module: with_norm(module, group.layer), what)

    def effect(self, before: View, edits: Sequence[Edit], after: View) -> str | None:
        """Every replaced layer has a trainable norm and kept its weights."""
        for edit in edits:
            if f"{edit.target}.norm.weight" not in after.parameters:
                return f"{edit.target} has no trainable norm"
            if (
                f"{edit.target}.weight" in before.parameters.keys() - after.parameters.keys()
            ):  # a frozen weight is in neither
                return f"{edit.target} lost its weight"
        return None


def _plain(group: UnitGroup) -> bool:
    """Whether all outputs of a hidden layer are units, in order, with a nonlinearity after them."""
    rows = group.weight
    return group.nonlinearity != "linear" and rows.name == f"{group.layer}.weight" and rows.dim == 0 and rows.plain


def with_norm(module: nn.Module, layer: str = "") -> nn.Module:
    """The same layer with a norm over its outputs; the parameters are shared.

    Raises:
        Refused: the module is not a plain Linear or convolution.
    """
    if type(module) not in _NORMED:
        raise Refused(LayerNormInsertion.name, layer, f"a {type(module).__name__} is not a plain Linear or convolution")
    new = recast(module, _NORMED[type(module)])
    linear = isinstance(module, nn.Linear)
    new.norm = nn.LayerNorm(module.out_features) if linear else nn.GroupNorm(1, new.out_channels)
    return new


class _Normed:
    norm: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return self.norm(super().forward(input))  # type: ignore[misc]


class NormedLinear(_Normed, nn.Linear):
    """A Linear followed by a LayerNorm over its units."""


class NormedConv1d(_Normed, nn.Conv1d):
    """A Conv1d followed by a one-group GroupNorm."""


class NormedConv2d(_Normed, nn.Conv2d):
    """A Conv2d followed by a one-group GroupNorm."""


class NormedConv3d(_Normed, nn.Conv3d):
    """A Conv3d followed by a one-group GroupNorm."""


_NORMED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: NormedLinear,
    nn.Conv1d: NormedConv1d,
    nn.Conv2d: NormedConv2d,
    nn.Conv3d: NormedConv3d,
}
