"""The rule of earlier verdict files: all expectations must hold, by a 95% Student t interval over the seeds.

Nothing is judged by it now. It shows that a file of that time still follows from the measures it holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from homeostat.studies.lab.expectation import Expectation, Measures
from homeostat.studies.lab.verdict import FAILS, HOLDS, OPEN, interval


def earlier_judgements(
    expectations: Sequence[Expectation], by_seed: Mapping[int, Mapping[str, Measures]]
) -> tuple[list[tuple[str, float, str]], str]:
    """Sentence, mean effect and verdict of every expectation, and the verdict of the study."""
    found: list[tuple[str, float, str]] = []
    for expectation in expectations:
        effects = [float(expectation.effect(arms)) for arms in by_seed.values()]
        low, high = interval(effects)
        seen = HOLDS if low > expectation.threshold else FAILS if high < expectation.threshold else OPEN
        found.append((expectation.says, sum(effects) / len(effects) if effects else math.nan, seen))
    seen_of_all = {verdict for *_, verdict in found}
    return found, FAILS if FAILS in seen_of_all else HOLDS if seen_of_all == {HOLDS} else OPEN
