"""Findings in the order of their causes: a cause first, then what follows from it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from homeostat.core.finding import SEVERITIES, Finding


def by_cause(findings: Iterable[Finding], explains: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Order findings: causes by severity, then by first step; each is followed by the findings that it explains.

    Args:
        findings: findings with different conditions.
        explains: the conditions that follow from a condition. A finding of severity "info" explains nothing.

    Returns:
        The findings, each with `follows` set to the condition directly before it in its chain of causes, or "". Where
        conditions explain each other, the more severe one comes first.
    """
    ranked = sorted(findings, key=_rank)
    effects = {f.condition: set(explains.get(f.condition, ())) for f in ranked if f.severity != "info"}
    explained = {name for names in effects.values() for name in names}
    left = {f.condition: f for f in ranked}
    ordered: list[Finding] = []

    def place(finding: Finding, cause: str) -> None:
        ordered.append(replace(finding, follows=cause))
        for effect in [f for f in ranked if f.condition in effects.get(finding.condition, ())]:
            if left.pop(effect.condition, None) is not None:
                place(effect, finding.condition)

    # What nothing explains comes first. Circles of causes are left; they are entered at the most severe finding.
    for finding in [*(f for f in ranked if f.condition not in explained), *ranked]:
        if left.pop(finding.condition, None) is not None:
            place(finding, "")
    return ordered


def _rank(finding: Finding) -> tuple[int, int, str]:
    return -SEVERITIES.index(finding.severity), finding.since_step, finding.condition
