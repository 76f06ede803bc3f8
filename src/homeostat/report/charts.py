"""Data of the page's plots: one chart per vital, and the timeline of findings, boundaries and journal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from homeostat.core.finding import Finding
from homeostat.diagnosis.history import LOGGED
from homeostat.record.reader import FindingEvent, Points, RunReader
from homeostat.report import formatting
from homeostat.report.descriptions import Meaning
from homeostat.report.downsampling import binned, decades, lines_per_chart, points_per_line, thinned, worst_first
from homeostat.report.formatting import figure, within

SHOWN = 6
"""Number of lines that a chart shows by default."""

_LOGGED = Meaning("A number that the script gave to its logger.")


def vital_charts(reader: RunReader, meanings: Mapping[str, Meaning], first: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One chart per vital: its lines, worst layers first, with units, axis and notes.

    Args:
        meanings: vital -> what it means.
        first: vitals to put first, in this order.
    """
    vitals = reader.vitals()
    named = {layer for finding in reader.findings() for layer in finding.layers}
    colours = _colours(vitals)
    lines = sum(len(layers) for layers in vitals.values())
    drawn = lines_per_chart(lines, len(vitals))
    most = points_per_line(min(lines, drawn * len(vitals)))
    charts = []
    for name in sorted(vitals, key=lambda name: first.index(name) if name in first else len(first)):
        layers = vitals[name]
        meaning = meanings.get(name, _LOGGED if name.startswith(LOGGED) else Meaning())
        order, log = worst_first(layers, meaning.worse, named), not meaning.bounded and decades(layers) > 2
        charts.append(
            {
                "id": f"vital-{name}",
                "name": name,
                "unit": "" if meaning.unit == name else meaning.unit,
                "worse": meaning.worse,
                "line": meaning.line,
                "log": log,
                "decades": decades(layers) if log else 0.0,
                "lines": [_line(layer, layers[layer], colours[layer], most, log) for layer in order[:drawn]],
                "summary": [_summary(layer, layers[layer]) for layer in order[:drawn]],
                "notes": _notes(layers, log, most, drawn),
                "reading": _reading(name, order[0], layers[order[0]]) if order else "",
            }
        )
    return charts


def marks(reader: RunReader) -> dict[str, Any]:
    """Marks along the step axis of every chart: boundaries, findings and journal entries."""
    last, journal, boundaries = _last_step(reader), reader.journal(), reader.boundaries()
    found = [_finding_mark(event) for event in reader.finding_events() if event.event != "layers"]
    acts = [e for e in journal if e.action not in ("attach", "boundary")]
    return {
        "last": last,
        "boundaries": binned([b.step for b in boundaries], [b.label or "boundary" for b in boundaries], last, 400),
        "findings": found,
        "kinds": sorted({mark["severity"] for mark in found}),
        "journal": binned([e.step for e in acts], [formatting.journal_line(e) for e in acts], last),
    }


def timeline(reader: RunReader) -> list[dict[str, Any]]:
    """Rows from top to bottom: one per condition (spans), one for boundaries, one per journal component (points)."""
    last = _last_step(reader)
    rows = [
        {"label": condition, "kind": "finding", "spans": spans}
        for condition, spans in finding_spans(reader.finding_events(), last).items()
    ]
    if boundaries := reader.boundaries():
        points = binned([b.step for b in boundaries], [b.label or "boundary" for b in boundaries], last, 400)
        rows.append({"label": "boundaries", "kind": "boundary", "points": points})
    journal = [e for e in reader.journal() if e.action != "boundary"]
    for component in dict.fromkeys(entry.component for entry in journal):
        own = [e for e in journal if e.component == component]
        points = binned([e.step for e in own], [formatting.journal_line(e) for e in own], last, 240)
        rows.append({"label": component, "kind": "journal", "points": points})
    return rows


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


def _last_step(reader: RunReader) -> int:
    ends = [line[-1][0] for layers in reader.vitals().values() for line in layers.values() if line]
    marked = [e.step for e in reader.journal()] + [b.step for b in reader.boundaries()]
    return max([reader.meta.steps, 1, *ends, *marked])


def _colours(vitals: Mapping[str, Mapping[str, Points]]) -> dict[str, int]:
    layers = dict.fromkeys(layer for own in vitals.values() for layer in own)
    return {layer: i for i, layer in enumerate(layers)}


def _line(layer: str, points: Points, colour: int, most: int, log: bool) -> dict[str, Any]:
    kept = thinned(points, most)
    drawn = [v if v is not None and math.isfinite(v) and (v > 0 or not log) else None for _, v in kept]
    infinite = [step for step, v in points if v is not None and math.isinf(v)]
    return {
        "layer": layer,
        "colour": colour,
        "x": [step for step, _ in kept],
        "y": [None if v is None else float(f"{v:.6g}") for v in drawn],
        "infinite": infinite[:200],
    }


def _summary(layer: str, points: Points) -> list[str]:
    known = [v for _, v in points if v is not None]
    if not known:
        return [layer, "-", "-", "-", "-", f"0 of {len(points):,}"]
    shown = [figure(float(f(known))) for f in (lambda v: v[0], lambda v: v[-1], min, max)]
    return [layer, *shown, f"{len(known):,} of {len(points):,}"]


def _notes(layers: Mapping[str, Points], log: bool, most: int, drawn: int) -> list[str]:
    values = [v for line in layers.values() for _, v in line]
    counts = {
        "could not be measured (gaps)": sum(v is None for v in values),
        "infinite (crosses)": sum(v is not None and math.isinf(v) for v in values),
        "zero, which a logarithmic axis cannot show": sum(v == 0 for v in values) if log else 0,
    }
    notes = [f"{n:,} of {len(values):,} values {'is' if n == 1 else 'are'} {what}" for what, n in counts.items() if n]
    notes = [note.replace("are could", "could").replace("is could", "could") for note in notes]
    if len(layers) > drawn:
        notes.append(f"the {drawn:,} worst of {len(layers):,} layers are shown; the record has all of them")
    if any(len(line) > most for line in layers.values()):
        notes.append(f"lines are reduced to {most:,} points; all peaks are kept, and the record has every point")
    return notes


def _reading(name: str, layer: str, points: Points) -> str:
    known = [v for _, v in points if v is not None]
    if not known:
        return f"{name} could not be measured."
    return f"{name} of {layer}: {figure(float(known[0]))} at the start, {figure(float(known[-1]))} at the end."
