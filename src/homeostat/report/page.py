"""The report page: one self-contained HTML file, made from a run record."""

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
from homeostat.record.json_values import plain
from homeostat.record.ranks import OtherRank, other_ranks
from homeostat.record.reader import RecordedCadence, RunMeta, RunReader
from homeostat.report import charts, descriptions, formatting

JOURNAL_ROWS = 400
"""Maximum number of journal rows on the page: the first half and the last half."""
LONGEST_TEXT = 500
"""Maximum number of characters of one value in the tables of the page."""
BUNDLE = "plotly-basic.min.js"
"""The plotting library among the page's assets; see scripts/fetch_plotly.py."""


def write_report(reader: RunReader, path: str | Path, title: str | None = None) -> Path:
    """Write the report of a run: one self-contained HTML page that works offline.

    Args:
        reader: a record, finished or still being written, in a file or in memory.
        path: file of the page; it is replaced atomically.
        title: title of the page; None uses the name of the script.

    Raises:
        HomeostatError: jinja2 is not installed.
        RecordError: the record cannot be read, or the page cannot be written.
    """
    return write_whole(path, page(reader, title))


def page(reader: RunReader, title: str | None = None) -> str:
    """HTML of the page; see `write_report`."""
    template = _template()
    with reader.snapshot():
        content = contents(reader)
    return template.render(
        **content,
        title=title or f"{Path(content['meta'].script).name}: report",
        data=_embedded({"timeline": content["timeline"], "charts": content["charts"], "marks": content["marks"]}),
        plotly=_asset(BUNDLE),
        css=_asset("page.css"),
        js=_asset("page.js"),
    )


def contents(reader: RunReader) -> dict[str, Any]:
    """Values for the page's template."""
    meta, findings, journal = reader.meta, reader.findings(), reader.journal()
    failed = reader.failures()
    reads = descriptions.condition_vitals()
    first = ["loss", *(name for f in findings for name in reads.get(f.condition, ()))]
    drawn = charts.vital_charts(reader, descriptions.vital_meanings(), first)
    return {
        "meta": meta,
        "health": formatting.health(findings, meta.steps, bool(drawn), failed),
        "headline": formatting.headline(findings, meta, bool(drawn), failed),
        "status": formatting.STATUS.get(meta.status, meta.status),
        "cards": _cards(findings, meta, {chart["name"] for chart in drawn}),
        "gone": formatting.gone(reader.finding_events()),
        "charts": drawn,
        "marks": charts.marks(reader),
        "timeline": charts.timeline(reader),
        "journal": _shown(journal),
        "journal_left_out": max(0, len(journal) - JOURNAL_ROWS),
        "journal_counts": Counter(f"{e.component} {e.action}" for e in journal).most_common(),
        "not_measured": reader.not_measured(),
        "ranks": [_rank_row(one) for one in other_ranks(reader)],
        "cadences": latest_cadences(reader.cadences()),
        "facts": _facts(meta, reader.facts()),
        "words": formatting,
    }


def latest_cadences(cadences: Sequence[RecordedCadence]) -> list[tuple[str, int, str]]:
    """For each vital: name, current cadence in steps, and history of the cadence."""
    history: dict[str, list[RecordedCadence]] = {}
    for cadence in cadences:
        history.setdefault(cadence.vital, []).append(cadence)
    return [
        (vital, own[-1].every, "; ".join(f"{c.every:,} from step {c.step:,}" for c in own))
        for vital, own in history.items()
    ]


def _cards(findings: Sequence[Finding], meta: RunMeta, drawn: set[str]) -> list[dict[str, Any]]:
    meanings, reads = descriptions.condition_meanings(), descriptions.condition_vitals()
    cards = []
    for finding in findings:
        head, rows = formatting.evidence_by_layer(finding)
        cards.append(
            {
                "finding": finding,
                "meaning": meanings.get(finding.condition, ""),
                "text": formatting.evidence_text(finding),
                "numbers": formatting.evidence_numbers(finding),
                "head": head,
                "rows": rows,
                "vitals": [name for name in reads.get(finding.condition, ()) if name in drawn],
                "remedies": [
                    {"p": p, "grounds": formatting.grounds(p), "command": _command(p.treatment, meta)}
                    for p in finding.prescriptions
                ],
            }
        )
    return cards


def _rank_row(one: OtherRank) -> tuple[str, ...]:
    found = [f"{f.condition} ({f.severity}){formatting.within(f.layers)}" for f in one.findings]
    found += [f"{failure.part} failed: {failure.why}" for failure in one.failures]
    status = formatting.STATUS.get(one.status, one.status)
    findings = "; ".join(found) or ("" if one.run is None else "none")
    return str(one.rank), one.run or "", status, f"{one.steps:,}", findings, formatting.difference_text(one)


def _command(treatment: str, meta: RunMeta) -> str:
    return f"homeostat run --treat {treatment} {meta.script}" if treatment else ""


def _shown(journal: Sequence[JournalEntry]) -> list[tuple[JournalEntry, str]]:
    half = JOURNAL_ROWS // 2
    rows = list(journal) if len(journal) <= JOURNAL_ROWS else [*journal[:half], *journal[-half:]]
    return [(entry, "" if not entry.detail else _short(_text(entry.detail))) for entry in rows]


def _facts(meta: RunMeta, more: dict[str, Any]) -> list[tuple[str, str]]:
    facts = {
        "run": meta.run,
        "record": meta.path or "in memory only",
        "script": meta.script,
        "command": " ".join(meta.command),
        "working directory": meta.cwd,
        "seed": "none" if meta.seed is None else meta.seed,
        "started": formatting.moment(meta.started_utc),
        "ended": formatting.moment(meta.ended_utc),
        "steps": f"{meta.steps:,}",
        "wall time": formatting.duration(meta.wall_seconds),
        "time spent in Homeostat": formatting.percent(meta.overhead),
        **{f"{name}": value for name, value in meta.environment.items()},
        **{f"setting: {name}": value for name, value in meta.settings.items()},
        **more,
    }
    return [(name.replace("_", " "), _short(_text(value))) for name, value in facts.items()]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ... (the record has all of it)"


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
    """JSON for a script element, escaped so that no character can end the element or open a comment."""
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
    environment.filters["figure"] = formatting.figure
    return environment.from_string(_asset("page.html.j2"))
