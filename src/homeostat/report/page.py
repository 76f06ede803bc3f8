"""The report page: one HTML file that needs nothing else, made from a run record."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from homeostat.core.errors import HomeostatError
from homeostat.core.finding import Finding, JournalEntry
from homeostat.record.export import write_whole
from homeostat.record.plain import plain
from homeostat.record.reader import Cadence, RunMeta, RunReader
from homeostat.report import charts, explain, words

JOURNAL_ROWS = 400
"""Rows of the journal on the page: half of them the first, half the last."""


def write_report(reader: RunReader, path: str | Path, title: str | None = None) -> Path:
    """Write the report of a run: one self-contained HTML page that never touches the network.

    Args:
        reader: an opened record, or one that is being written, in a file or in memory.
        path: where the page goes; written whole or not at all.
        title: the page's title; None makes one of the script's name.

    Raises:
        HomeostatError: plotly is not installed.
        RecordError: the record cannot be read, or the page not be written.
    """
    return write_whole(path, page(reader, title))


def page(reader: RunReader, title: str | None = None) -> str:
    """The page's text; see `write_report`."""
    plotly, template = _plotly(), _template()
    with reader.snapshot():
        content = contents(reader)
    return template.render(
        **content,
        title=title or f"{Path(content['meta'].script).name}: how the run is",
        data=_embedded({"timeline": content["timeline"], "charts": content["charts"], "marks": content["marks"]}),
        plotly=plotly,
        css=_asset("page.css"),
        js=_asset("page.js"),
    )


def contents(reader: RunReader) -> dict[str, Any]:
    """Everything the page says, as plain values for the template."""
    meta, findings, journal = reader.meta, words.ranked(reader.findings()), reader.journal()
    reads = explain.condition_vitals()
    first = ["loss", *(name for f in findings for name in reads.get(f.condition, ()))]
    drawn = charts.vital_charts(reader, explain.vital_meanings(), first)
    return {
        "meta": meta,
        "health": words.health(findings, meta.steps, bool(drawn)),
        "headline": words.headline(findings, meta, bool(drawn)),
        "status": words.STATUS.get(meta.status, meta.status),
        "cards": _cards(findings, meta, {chart["name"] for chart in drawn}),
        "gone": words.gone(reader.finding_events()),
        "charts": drawn,
        "marks": charts.marks(reader),
        "timeline": charts.timeline(reader),
        "journal": _shown(journal),
        "journal_left_out": max(0, len(journal) - JOURNAL_ROWS),
        "journal_counts": Counter(f"{e.component} {e.action}" for e in journal).most_common(),
        "not_measured": reader.not_measured(),
        "cadences": latest_cadences(reader.cadences()),
        "facts": _facts(meta, reader.facts()),
        "words": words,
    }


def latest_cadences(cadences: Sequence[Cadence]) -> list[tuple[str, int, str]]:
    """Vital, how often it is measured now, and how that came about."""
    history: dict[str, list[Cadence]] = {}
    for cadence in cadences:
        history.setdefault(cadence.vital, []).append(cadence)
    return [
        (vital, own[-1].every, "; ".join(f"{c.every:,} from step {c.step:,}" for c in own))
        for vital, own in history.items()
    ]


def _cards(findings: Sequence[Finding], meta: RunMeta, drawn: set[str]) -> list[dict[str, Any]]:
    meanings, reads = explain.condition_meanings(), explain.condition_vitals()
    cards = []
    for finding in findings:
        head, rows = words.evidence_by_layer(finding)
        cards.append(
            {
                "finding": finding,
                "meaning": meanings.get(finding.condition, ""),
                "text": words.evidence_text(finding),
                "numbers": words.evidence_numbers(finding),
                "head": head,
                "rows": rows,
                "vitals": [name for name in reads.get(finding.condition, ()) if name in drawn],
                "remedies": [
                    {"p": p, "grounds": words.grounds(p), "command": _command(p.treatment, meta)}
                    for p in finding.prescriptions
                ],
            }
        )
    return cards


def _command(treatment: str, meta: RunMeta) -> str:
    return f"homeostat run --treat {treatment} {meta.script}" if treatment else ""


def _shown(journal: Sequence[JournalEntry]) -> list[tuple[JournalEntry, str]]:
    half = JOURNAL_ROWS // 2
    rows = list(journal) if len(journal) <= JOURNAL_ROWS else [*journal[:half], *journal[-half:]]
    return [(entry, "" if not entry.detail else _text(entry.detail)) for entry in rows]


def _facts(meta: RunMeta, more: dict[str, Any]) -> list[tuple[str, str]]:
    facts = {
        "run": meta.run,
        "record": meta.path or "in memory only",
        "script": meta.script,
        "command": " ".join(meta.command),
        "working directory": meta.cwd,
        "seed": "none" if meta.seed is None else meta.seed,
        "started": words.moment(meta.started_utc),
        "ended": words.moment(meta.ended_utc),
        "steps": f"{meta.steps:,}",
        "wall time": words.duration(meta.wall_seconds),
        "time spent in Homeostat": words.percent(meta.overhead),
        **{f"{name}": value for name, value in meta.environment.items()},
        **{f"setting: {name}": value for name, value in meta.settings.items()},
        **more,
    }
    return [(name.replace("_", " "), _text(value)) for name, value in facts.items()]


def _text(value: Any) -> str:
    value = plain(value)
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return ", ".join(value) or "none"
    if isinstance(value, dict) and not any(isinstance(v, (dict, list)) for v in value.values()):
        return ", ".join(f"{name}: {_text(v)}" for name, v in value.items()) or "none"
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _embedded(data: Any) -> str:
    """JSON that can stand inside a script element: no character in it can end the element or open a comment."""
    text = json.dumps(plain(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _asset(name: str) -> str:
    return (resources.files("homeostat.report") / "assets" / name).read_text(encoding="utf-8")


def _template():
    try:
        import jinja2
    except ImportError as error:
        raise HomeostatError("the report page needs jinja2: pip install 'homeostat[report]'") from error
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = words.figure
    return environment.from_string(_asset("page.html.j2"))


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise HomeostatError("the report page needs plotly: pip install 'homeostat[report]'") from error
    return get_plotlyjs()
