"""The thresholds of the conditions, with how each was set."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from homeostat.core.errors import UnknownName


@cache
def thresholds() -> dict[str, dict[str, dict[str, Any]]]:
    """condition -> threshold name -> {"value", "ease", "how", ...} as in `thresholds.json`."""
    text = resources.files("homeostat.diagnosis").joinpath("thresholds.json").read_text(encoding="utf-8")
    return json.loads(text)["conditions"]


def threshold(condition: str, name: str) -> dict[str, Any]:
    """One threshold.

    Raises:
        UnknownName: there is no such threshold.
    """
    known = {f"{c}.{n}": entry for c, entries in thresholds().items() for n, entry in entries.items()}
    key = f"{condition}.{name}"
    if key not in known:
        raise UnknownName("threshold", key, known)
    return known[key]
