"""Splits the families of programs in two sides: thresholds may be set on one, and the other only gives figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from random import Random

from homeostat.clinic.programs import ARCHITECTURES, FAMILIES
from homeostat.clinic.styles import STYLES

DEVELOPMENT, HELD_OUT = "development", "held out"
_FILE = "split.json"


def drawn(seed: int) -> dict[str, str]:
    """Family -> side. Of every architecture, half of the styles (two or three of five) are on each side."""
    sides: dict[str, str] = {}
    draw = Random(f"split {seed}")
    for place, arch in enumerate(ARCHITECTURES):
        styles = draw.sample(tuple(STYLES), len(STYLES))
        first = len(STYLES) // 2 + place % 2
        sides |= {f"{arch}/{style}": DEVELOPMENT if k < first else HELD_OUT for k, style in enumerate(styles)}
    return {family: sides[family] for family in FAMILIES}


def frozen() -> dict[str, str]:
    """The split that is committed."""
    sides = json.loads(resources.files("homeostat.clinic").joinpath(_FILE).read_text())
    return {family: side for side, families in sides.items() for family in families}


def as_text(sides: dict[str, str]) -> str:
    """Contents of the split file."""
    lists: dict[str, Sequence[str]] = {side: [f for f in sides if sides[f] == side] for side in (DEVELOPMENT, HELD_OUT)}
    return json.dumps(lists, indent=1) + "\n"
