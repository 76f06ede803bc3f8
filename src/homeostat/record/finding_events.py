"""The changes between two sets of findings. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from homeostat.core.finding import Finding


def changes(old: Sequence[Finding], new: Sequence[Finding]) -> list[tuple[str, Finding]]:
    """Events that lead from the old findings to the new ones, in the order gone, changed, appeared.

    A new finding continues an old one of the same condition if both name the same layers, or else if they share a
    layer. Then the event is "severity" or "layers"; a change of the evidence alone is no event.
    """
    before = list(old)
    events: list[tuple[str, Finding]] = []
    for finding in new:
        match = _predecessor(finding, before, new)
        if match is None:
            events.append(("appeared", finding))
            continue
        before.remove(match)
        if match.severity != finding.severity:
            events.append(("severity", finding))
        elif set(match.layers) != set(finding.layers):
            events.append(("layers", finding))
    order = {"severity": 0, "layers": 0, "appeared": 1}
    return [("gone", f) for f in before] + sorted(events, key=lambda event: order[event[0]])


def _predecessor(finding: Finding, before: Sequence[Finding], new: Sequence[Finding]) -> Finding | None:
    same = [f for f in before if f.condition == finding.condition]
    exact = [f for f in same if set(f.layers) == set(finding.layers)]
    if exact:
        return exact[0]
    claimed = [set(f.layers) for f in new if f.condition == finding.condition]
    free = [f for f in same if set(f.layers) not in claimed]
    return next((f for f in free if set(f.layers) & set(finding.layers)), None)
