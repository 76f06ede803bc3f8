"""The law "one trajectory": a treated run is the same in every loop style, or the treatment is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from homeostat.core.errors import Refused
from homeostat.core.treatment import Treatment
from homeostat.testing.loop_styles import Way, ways
from homeostat.testing.reference_run import OpenRun, RunSetup

STEPS = 16
Weights = dict[str, Tensor]


def one_trajectory(treatment: Treatment | None, among: Iterable[Way] | None = None) -> None:
    """In every loop style, the treated weights equal those of a reference run without hooks, or the treatment is
    refused in both."""
    expected: dict[RunSetup, Weights | Refused] = {}
    for way in ways() if among is None else among:
        if way.setup not in expected:
            expected[way.setup] = _outcome(lambda way=way: OpenRun(way.setup, treatment).go(STEPS))
        wrong = compare(_outcome(lambda way=way: way.go(treatment, STEPS)), expected[way.setup], way.tolerance)
        assert not wrong, f"with {way.name}, {wrong} after {STEPS} steps"


def _outcome(run: Callable[[], Weights]) -> Weights | Refused:
    try:
        return run()
    except Refused as refusal:
        return refusal


def compare(found: Weights | Refused, expected: Weights | Refused, tolerance: float) -> str:
    """The difference, or "" if both runs have the same weights or both were refused."""
    if isinstance(found, Refused):
        return "" if isinstance(expected, Refused) else f"it is refused ({found}), but the reference run is not"
    if isinstance(expected, Refused):
        return f"it is not refused, but the reference run is ({expected})"
    if found.keys() != expected.keys():
        return f"the network has different parameters: {sorted(found.keys() ^ expected.keys())[:3]}"
    gaps = {name: float((value - expected[name]).abs().max()) for name, value in found.items()}
    worst = max(gaps, key=lambda name: (gaps[name] != gaps[name], gaps[name]))
    kept = gaps[worst] <= tolerance
    return "" if kept else f"{worst} is off by {gaps[worst]:.2g}"
