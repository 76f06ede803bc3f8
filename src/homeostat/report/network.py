"""The network as a row of blocks, one per layer, each with its health. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homeostat.core.finding import SEVERITIES, Finding
from homeostat.diagnosis.history import LOGGED

NOT_OF_LAYERS = ("knob",)
"""Series whose second name is no layer."""


@dataclass(frozen=True)
class LayerBlock:
    """A layer of the page's picture of the network.

    Args:
        layer: its name.
        health: the worst severity of the findings that name it, or "healthy".
        conditions: what was found in it, worst first.
        vitals: number of vitals that were measured in it.
    """

    layer: str
    health: str
    conditions: tuple[str, ...]
    vitals: int


def network_blocks(layout: Mapping[str, Mapping[str, object]], findings: Sequence[Finding]) -> list[LayerBlock]:
    """The layers in the order of the network; see `layers_in_order`."""
    measured = {vital: layers for vital, layers in layout.items() if of_layers(vital)}
    blocks = []
    for layer in layers_in_order(measured):
        own = sorted((f for f in findings if _names(f, layer)), key=lambda f: -SEVERITIES.index(f.severity))
        vitals = sum(layer in layers for layers in measured.values())
        health = own[0].severity if own else "healthy"
        blocks.append(LayerBlock(layer, health, tuple(dict.fromkeys(f.condition for f in own)), vitals))
    return blocks


def of_layers(vital: str) -> bool:
    """Whether the series of a vital are those of layers."""
    return vital not in NOT_OF_LAYERS and not vital.startswith(LOGGED)


def layers_in_order(layout: Mapping[str, Mapping[str, object]]) -> list[str]:
    """Names of layers as the vital with the most layers lists them, then those that other vitals have."""
    vitals = sorted(layout.values(), key=lambda layers: -len(layers))
    names = dict.fromkeys(layer for layers in vitals for layer in layers)
    return [name for name in names if name.rpartition(".")[2] != "network"]


def _names(finding: Finding, layer: str) -> bool:
    return any(name == layer or name.startswith(f"{layer}.") for name in finding.layers)
