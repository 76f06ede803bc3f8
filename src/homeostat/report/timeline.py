"""Findings, boundaries and journal by step: rows of the timeline, and marks on every chart. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from homeostat.core.finding import Finding
from homeostat.record.reader import FindingEvent
from homeostat.report import formatting
from homeostat.report.downsampling import binned
from homeostat.report.formatting import within
from homeostat.report.shown_run import ShownRun


def marks(run: ShownRun, last: int) -> dict[str, Any]:
    """Marks along the step axis of every chart: boundaries, findings and journal entries.

    Args:
        run: the run.
        last: the last step of the axis.
    """
    found = [_finding_mark(event) for event in run.finding_events if event.event != "layers"]
    acts = [e for e in run.journal if e.action not in ("attach", "boundary")]
    return {
        "last": last,
        "boundaries": _boundaries(run, last),
        "findings": found,
        "kinds": sorted({mark["severity"] for mark in found}),
        "journal": binned([e.step for e in acts], [formatting.journal_line(e) for e in acts], last),
    }


def timeline(run: ShownRun, last: int) -> list[dict[str, Any]]:
    """Rows from top to bottom: one per condition (spans), one for boundaries, one per journal component (points)."""
    rows = [
        {"label": condition, "kind": "finding", "spans": spans}
        for condition, spans in finding_spans(run.finding_events, last).items()
    ]
    if run.boundaries:
        rows.append({"label": "boundaries", "kind": "boundary", "points": _boundaries(run, last)})
    journal = [e for e in run.journal if e.action != "boundary"]
    for component in dict.fromkeys(entry.component for entry in journal):
        own = [e for e in journal if e.component == component]
        points = binned([e.step for e in own], [formatting.journal_line(e) for e in own], last, 240)
        rows.append({"label": component, "kind": "journal", "points": points})
    return rows


def _boundaries(run: ShownRun, last: int) -> list[tuple[float, str]]:
    return binned([b.step for b in run.boundaries], [b.label or "boundary" for b in run.boundaries], last, 400)


def finding_spans(events: Sequence[FindingEvent], last: int) -> dict[str, list[dict[str, Any]]]:
    """Condition -> spans of steps with their severity, reconstructed from the finding events."""
    spans: dict[str, list[dict[str, Any]]] = {}
    standing: list[tuple[Finding, dict[str, Any]]] = []
    for step, event, finding in events:
        old = None if event == "appeared" else _continued(finding, standing)
        start = finding.since_step if event == "appeared" else step
        if old is not None:
            standing.remove(old)
            old[1]["to"] = step
        if event != "gone":
            span = {"from": min(start, step), "to": last, "severity": finding.severity, "text": _said(finding)}
            spans.setdefault(finding.condition, []).append(span)
            standing.append((finding, span))
    return spans


def _continued(finding: Finding, standing: list) -> Any:
    same = [pair for pair in standing if pair[0].condition == finding.condition]
    exact = [pair for pair in same if set(pair[0].layers) == set(finding.layers)]
    shared = [pair for pair in same if set(pair[0].layers) & set(finding.layers)]
    return next(iter(exact + shared), None)


def _said(finding: Finding) -> str:
    return f"{finding.severity}{within(finding.layers)}: {finding.evidence.get('text', '')}".rstrip(": ")


def _finding_mark(event: FindingEvent) -> dict[str, Any]:
    word = {"appeared": "appears", "severity": f"is now {event.finding.severity}", "gone": "is resolved"}[event.event]
    f = event.finding
    at = f.since_step if event.event == "appeared" else event.step
    severity = "gone" if event.event == "gone" else f.severity
    return {"step": at, "severity": severity, "text": f"{f.condition} {word}{within(f.layers)}"}
