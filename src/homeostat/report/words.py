"""A run in words and figures: the page and the terminal say the same because both take it from here. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from homeostat.core.finding import SEVERITIES, Finding, JournalEntry, Prescription
from homeostat.record.reader import FindingEvent, RunMeta

MARKS = {"critical": "▲", "warning": "◆", "info": "●"}
"""A shape for every severity: none of them is told by colour alone."""

STATUS = {
    "running": "still running",
    "finished": "finished",
    "failed": "ended with an error",
    "interrupted": "was interrupted",
    "unfinished": "never closed: its process is gone",
}


def figure(value: Any) -> str:
    """A value as people read it: four significant digits, whole numbers in full, "-" for a missing one."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e6):
        return f"{int(value):,}"
    return f"{value:.4g}"


def percent(fraction: float | None) -> str:
    """A fraction as a percentage, "unknown" when it is."""
    return "unknown" if fraction is None else f"{fraction:.2%}" if fraction < 0.1 else f"{fraction:.1%}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def moment(utc: str | None) -> str:
    """`2026-01-02T03:04:05.678+00:00` as `2026-01-02 03:04:05 UTC`."""
    return f"{utc[:19].replace('T', ' ')} UTC" if utc else "-"


def ranked(findings: Sequence[Finding]) -> list[Finding]:
    """Worst first, then oldest first."""
    return sorted(findings, key=lambda f: (-SEVERITIES.index(f.severity), f.since_step))


def counted(findings: Sequence[Finding]) -> str:
    """`1 critical finding, 2 warnings and 1 note`; "" when there are none."""
    words = {"critical": "critical finding", "warning": "warning", "info": "note"}
    parts = []
    for severity in reversed(SEVERITIES):
        if number := sum(f.severity == severity for f in findings):
            parts.append(f"{number} {words[severity]}{'s' * (number > 1)}")
    return listed(parts)


def health(findings: Sequence[Finding], steps: int, measured: bool) -> str:
    """How the run is, as one word: "critical", "warning", "info", "healthy" or "unknown"."""
    if findings:
        return ranked(findings)[0].severity
    return "healthy" if steps and measured else "unknown"


def headline(findings: Sequence[Finding], meta: RunMeta, measured: bool) -> str:
    """How the run is, in one plain sentence."""
    kind = health(findings, meta.steps, measured)
    if kind == "unknown" and not meta.steps:
        return "No optimizer step was seen, so there is nothing to say about this run."
    if kind == "unknown":
        return "No vital was measured, so nothing can be said about this run's health."
    if kind == "healthy":
        return f"Healthy: none of the known conditions was found in {meta.steps:,} steps."
    if kind == "info":
        return f"Nothing to worry about in {meta.steps:,} steps: {counted(findings)}."
    worst = ranked(findings)[0]
    return f"{counted(findings)}: {worst.condition}{within(worst.layers)} since step {worst.since_step:,}.".capitalize()


def within(layers: Sequence[str], most: int = 3) -> str:
    """` in fc1, fc2 and 4 more`; "" for the whole network."""
    return f" in {listed(layers, most)}" if layers else ""


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first few names and how many more there are."""
    rest = len(names) - most
    parts = [*names[:most], f"{rest} more"] if rest > 0 else list(names)
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1] if parts else ""]))


def evidence_text(finding: Finding) -> str:
    """The sentence of a finding's evidence; made of its numbers when it has none."""
    said = finding.evidence.get("text")
    return str(said) if said else ", ".join(f"{name} {value}" for name, value in evidence_numbers(finding).items())


def evidence_numbers(finding: Finding) -> dict[str, str]:
    """The single numbers of a finding's evidence, named in words."""
    plain = {k: v for k, v in finding.evidence.items() if k not in ("text", "by_layer")}
    return {name.replace("_", " "): _value(value) for name, value in plain.items()}


def evidence_by_layer(finding: Finding) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a finding's numbers per layer; empty when it has them for less than two layers."""
    layers = finding.evidence.get("by_layer")
    if not isinstance(layers, Mapping) or len(layers) < 2:
        return [], []
    names = list(dict.fromkeys(n for numbers in layers.values() if isinstance(numbers, Mapping) for n in numbers))
    rows = [[layer, *(_value(dict(numbers).get(n)) for n in names)] for layer, numbers in layers.items()]
    return ["layer", *(n.replace("_", " ") for n in names)], rows


def grounds(prescription: Prescription) -> str:
    """On what evidence a prescription rests."""
    if prescription.study and prescription.verdict != "untested":
        return f"study {prescription.study}: {prescription.verdict}"
    return f"study {prescription.study}: not run yet" if prescription.study else "untested here"


def told(entry: JournalEntry) -> str:
    """One line for one thing that was done."""
    change = f" ({figure(entry.before)} → {figure(entry.after)})" if (entry.before, entry.after) != (None, None) else ""
    where = f" {entry.where}" if entry.where else ""
    why = f": {entry.why}" if entry.why else ""
    return f"{entry.component} {entry.action}{where}{change}{why}"


def gone(events: Sequence[FindingEvent]) -> list[FindingEvent]:
    """The findings that went away, newest last."""
    return [event for event in events if event.event == "gone"]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_value(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(v) for v in value)
    return figure(value)
