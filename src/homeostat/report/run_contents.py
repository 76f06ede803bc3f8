"""What the page's templates show of one run, apart from its charts. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from homeostat.core.finding import Finding, JournalEntry
from homeostat.record.json_values import plain
from homeostat.record.ranks import OtherRank
from homeostat.record.reader import RecordedCadence, RunMeta
from homeostat.report import descriptions, formatting
from homeostat.report.network import network_blocks
from homeostat.report.shown_run import ShownRun
from homeostat.report.timeline import marks, timeline

JOURNAL_ROWS = 400
"""Maximum number of journal rows on the page: the first half and the last half."""
LONGEST_TEXT = 500
"""Maximum number of characters of one value in the tables of the page."""


def run_contents(run: ShownRun, last: int, label: str = "") -> dict[str, Any]:
    """Values for the page's templates.

    Args:
        run: the run.
        last: the last step of the page's axes.
        label: name of the run among several.
    """
    meta, findings, journal = run.meta, run.findings, run.journal
    return {
        "label": label,
        "meta": meta,
        "health": formatting.health(findings, meta.steps, bool(run.layout), run.failures),
        "headline": formatting.headline(findings, meta, bool(run.layout), run.failures),
        "status": formatting.STATUS.get(meta.status, meta.status),
        "cards": _cards(findings, meta, set(run.layout)),
        "gone": formatting.gone(run.finding_events),
        "blocks": network_blocks(run.layout, findings),
        "marks": marks(run, last),
        "timeline": timeline(run, last),
        "journal": _shown(journal),
        "journal_left_out": max(0, len(journal) - JOURNAL_ROWS),
        "journal_counts": Counter(f"{e.component} {e.action}" for e in journal).most_common(),
        "not_measured": formatting.grouped_missing(run.not_measured),
        "ranks": [_rank_row(one) for one in run.ranks],
        "cadences": latest_cadences(run.cadences),
        "facts": _facts(meta, run.facts),
    }


def first_vitals(findings: Sequence[Finding]) -> list[str]:
    """The vitals that are shown first: the loss, and those that the findings are read from."""
    reads = descriptions.condition_vitals()
    return ["loss", *(name for f in findings for name in reads.get(f.condition, ()))]


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
    for finding in formatting.causes_first(findings):
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
    return f"homeostat run --treat {treatment} {formatting.typed_script(meta)}" if treatment else ""


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
