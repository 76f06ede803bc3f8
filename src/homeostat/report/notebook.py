"""How a run shows itself in a notebook and in an interactive session."""

from __future__ import annotations

from html import escape

from homeostat.record.reader import RunReader
from homeostat.report import charts, descriptions, formatting
from homeostat.report.downsampling import as_line, worst_first
from homeostat.report.run_contents import first_vitals
from homeostat.report.shown_run import ShownRun
from homeostat.report.sparkline import sparkline

MOST_ROWS = 12


def one_line(reader: RunReader) -> str:
    """A run in one line: `<Run 20260101-120000-train-0a1b: 1,200 steps, running, 1 warning>`."""
    meta, findings = reader.meta, reader.findings()
    return f"<Run {meta.run}: {meta.steps:,} steps, {meta.status}, {formatting.counted(findings) or 'no findings'}>"


def html(reader: RunReader) -> str:
    """A run as HTML without scripts: its state, its findings, and the worst layer of each vital as a sparkline."""
    with reader.snapshot():
        shown, vitals = ShownRun.read(reader), reader.vitals()
    meta, findings = shown.meta, formatting.causes_first(shown.findings)
    said = formatting.headline(findings, meta, bool(vitals), shown.failures)
    rows = [
        [
            f"{formatting.MARKS[f.severity]} {f.severity}",
            f.condition,
            f"{f.since_step:,}",
            _where(f.layers),
            formatting.evidence_text(f),
            f.prescriptions[0].do if f.prescriptions else "",
        ]
        for f in findings
    ]
    head = ["", "finding", "since step", "where", "evidence", "what usually helps"]
    meanings, lines = descriptions.vital_meanings(), []
    for chart in charts.chart_heads(vitals, meanings, first_vitals(findings))[:MOST_ROWS]:
        name = chart["name"]
        layer = worst_first(vitals[name], chart["worse"], shown.named)[0]
        values = as_line(vitals[name][layer]).values
        lines.append([name, layer, formatting.figure(float(values[-1])) if len(values) else "-", sparkline(values, 40)])
    state = f"{meta.run}: {meta.steps:,} steps, {formatting.STATUS.get(meta.status, meta.status)}"
    body = f"<p><b>{escape(state)}</b><br>{escape(said)}</p>"
    body += _table(head, rows) if rows else ""
    return f"<div>{body}{_table(['vital', 'worst layer', 'last', 'course'], lines) if lines else ''}</div>"


def _where(layers: tuple[str, ...]) -> str:
    return formatting.listed(list(layers)) or "the whole network"


def _table(head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in head)
    cells = ["".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in row) for row in rows]
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
