"""Text and numbers about a run, shared by the page and the terminal. Pure functions."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from homeostat.core.finding import SEVERITIES, Finding, JournalEntry, Prescription
from homeostat.record.ranks import MISSING, OtherRank
from homeostat.record.reader import Failure, FindingEvent, NotMeasured, RunMeta

MARKS = {"critical": "▲", "warning": "◆", "info": "●"}
"""One symbol per severity, so that colour is not the only difference."""

NEEDED = frozenset({"starting", "diagnosis"})
"""Parts of Homeostat without which there is no diagnosis; without others it is incomplete."""

_OWN = os.path.join("homeostat", "__main__.py")
_ADVICE = {
    "probe": "Pass probe=(batch, loss_fn) to attach, or go without: these vitals are optional.",
    "always missing": "Nothing, if these layers are embeddings, or see whole numbers, constants or empty batches.",
}

STATUS = {
    "running": "still running",
    "finished": "finished",
    "failed": "ended with an error",
    "interrupted": "was interrupted",
    "unfinished": "not closed: its process no longer exists",
}


def rank_lines(meta: RunMeta, ranks: Sequence[OtherRank]) -> list[str]:
    """Where the other ranks of a run differ from the first, one line for each rank; one line if none does.

    Args:
        meta: of the first rank.
    """
    said = {one.rank: _apart(meta, one) for one in ranks}
    lines = [f"Rank {rank}: {'; '.join(words)}" for rank, words in said.items() if words]
    return lines or ([f"{len(ranks) + 1} ranks, with the same findings on each"] if ranks else [])


def _apart(meta: RunMeta, one: OtherRank) -> list[str]:
    if one.status == MISSING:
        return ["no record"]
    words = list[str]()
    if (one.status, one.steps) != (meta.status, meta.steps):
        words.append(f"{STATUS.get(one.status, one.status)}, {one.steps:,} steps")
    for finding in one.findings:
        if finding.condition in one.only:
            words.append(f"also {finding.condition} ({finding.severity}){within(finding.layers)}")
    words += [f"without {name}" for name in one.lacks]
    return words + [f"{failure.part} failed ({failure.why})" for failure in one.failures]


def difference_text(one: OtherRank) -> str:
    """The vital that differs most from the first rank's, as text; "" if none differs."""
    if not one.differences:
        return ""
    most = one.differences[0]
    where = f"{most.vital} @ {most.layer}, step {most.step:,}"
    return f"{where}: {figure(most.here)} (first rank: {figure(most.first)})"


def figure(value: Any) -> str:
    """A value as text: four significant digits, whole numbers in full, "-" for a missing value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e6):
        return f"{int(value):,}"
    return f"{value:.4g}"


def percent(fraction: float | None) -> str:
    """A fraction as a percentage; "unknown" for None."""
    return "unknown" if fraction is None else f"{fraction:.2%}" if fraction < 0.1 else f"{fraction:.1%}"


def duration(seconds: float) -> str:
    """Seconds as text in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def moment(utc: str | None) -> str:
    """`2026-01-02T03:04:05.678+00:00` as `2026-01-02 03:04:05 UTC`."""
    return f"{utc[:19].replace('T', ' ')} UTC" if utc else "-"


def counted(findings: Sequence[Finding]) -> str:
    """Text such as `1 critical finding, 2 warnings and 1 note`; "" if there are no findings."""
    words = {"critical": "critical finding", "warning": "warning", "info": "note"}
    parts = []
    for severity in reversed(SEVERITIES):
        if number := sum(f.severity == severity for f in findings):
            parts.append(f"{number} {words[severity]}{'s' * (number > 1)}")
    return listed(parts)


def health(findings: Sequence[Finding], steps: int, measured: bool, failed: Sequence[Failure] = ()) -> str:
    """The state of a run as one word: "critical", "warning", "info", "healthy" or "unknown".

    Args:
        measured: the record holds values of vitals.
        failed: parts of Homeostat that failed. Without findings, the state of such a run is unknown.
    """
    if findings:
        return max((f.severity for f in findings), key=SEVERITIES.index)
    return "healthy" if steps and measured and not failed else "unknown"


def headline(findings: Sequence[Finding], meta: RunMeta, measured: bool, failed: Sequence[Failure] = ()) -> str:
    """The state of a run in one or two plain sentences; see `health`."""
    if not failed:
        return _found(findings, meta, measured)
    missing = not_diagnosed(failed)
    return f"{_found(findings, meta, measured)} {missing}" if findings else missing


def not_diagnosed(failed: Sequence[Failure]) -> str:
    """What failed inside Homeostat, and that the diagnosis is missing or incomplete for that reason."""
    parts = [f"{one.part} failed at step {one.step:,} ({one.why})" for one in failed]
    what = "Not diagnosed" if any(one.part in NEEDED for one in failed) else "Not fully diagnosed"
    return f"{what}: {'; '.join(parts)}."


def _found(findings: Sequence[Finding], meta: RunMeta, measured: bool) -> str:
    kind = health(findings, meta.steps, measured)
    if kind == "unknown" and not meta.steps:
        return "No optimizer step was seen, so there is nothing to say about this run."
    if kind == "unknown":
        return "No vital was measured, so nothing can be said about this run's health."
    if kind == "healthy":
        return f"Healthy: none of the known conditions was found in {meta.steps:,} steps."
    if kind == "info":
        return f"Nothing to worry about in {meta.steps:,} steps: {counted(findings)}."
    first = findings[0]
    return f"{counted(findings)}: {first.condition}{within(first.layers)} since step {first.since_step:,}.".capitalize()


def within(layers: Sequence[str], most: int = 3) -> str:
    """Text such as ` in fc1, fc2 and 4 more`; "" for the whole network."""
    return f" in {listed(layers, most)}" if layers else ""


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first `most` names, and the number of further names."""
    rest = len(names) - most
    parts = [*names[:most], f"{rest} more"] if rest > 0 else list(names)
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1] if parts else ""]))


def causes_first(findings: Sequence[Finding]) -> list[Finding]:
    """Findings with each cause directly before what follows from it; the order is otherwise kept."""
    order: list[Finding] = []

    def put(finding: Finding) -> None:
        if any(finding is known for known in order):
            return
        order.append(finding)
        for other in findings:
            if other.follows and other.follows == finding.condition:
                put(other)

    conditions = {f.condition for f in findings}
    for finding in findings:
        if finding.follows not in conditions - {finding.condition}:
            put(finding)
    for finding in findings:  # each follows from another of them
        put(finding)
    return order


def worst(findings: Sequence[Finding]) -> Finding | None:
    """The first of the most severe findings."""
    return max(findings, key=lambda f: SEVERITIES.index(f.severity), default=None)


def typed_script(meta: RunMeta) -> str:
    """The script as a user would type it, or SCRIPT if Homeostat's own command trained."""
    name = Path(meta.script).name
    return "SCRIPT" if name in ("homeostat", "homeostat.exe") or meta.script.endswith(_OWN) else meta.script


def grouped_missing(missing: Sequence[NotMeasured]) -> list[tuple[str, str, str]]:
    """What was not measured, one row per reason: names, reason, and what can be done about it."""
    names: dict[str, dict[str, list[str]]] = {}
    for what, why in missing:
        vital, _, layer = what.partition(" @ ")
        names.setdefault(why, {}).setdefault(vital, []).append(layer)
    rows = []
    for why, vitals in names.items():
        said = [f"{vital}{within([layer for layer in layers if layer])}" for vital, layers in vitals.items()]
        rows.append(("; ".join(said), why, _advice(why)))
    return rows


def _advice(why: str) -> str:
    return next((advice for word, advice in _ADVICE.items() if word in why), "")


def evidence_text(finding: Finding) -> str:
    """The sentence of a finding's evidence, or its numbers if it has no sentence."""
    said = finding.evidence.get("text")
    return str(said) if said else ", ".join(f"{name} {value}" for name, value in evidence_numbers(finding).items())


def evidence_numbers(finding: Finding) -> dict[str, str]:
    """The scalar numbers of a finding's evidence by readable name."""
    plain = {k: v for k, v in finding.evidence.items() if k not in ("text", "by_layer")}
    return {name.replace("_", " "): _value(value) for name, value in plain.items()}


def evidence_by_layer(finding: Finding) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a finding's numbers per layer; empty for fewer than two layers."""
    layers = finding.evidence.get("by_layer")
    if not isinstance(layers, Mapping):
        return [], []
    known = {layer: numbers for layer, numbers in layers.items() if isinstance(numbers, Mapping)}
    if len(known) < 2:
        return [], []
    names = list(dict.fromkeys(n for numbers in known.values() for n in numbers))
    rows = [[layer, *(_value(numbers.get(n)) for n in names)] for layer, numbers in known.items()]
    return ["layer", *(n.replace("_", " ") for n in names)], rows


def grounds(prescription: Prescription) -> str:
    """The study that supports a prescription, and its verdict."""
    if prescription.study and prescription.verdict != "untested":
        return f"study {prescription.study}: {prescription.verdict}"
    return f"study {prescription.study}: not run yet" if prescription.study else "untested"


def journal_line(entry: JournalEntry) -> str:
    """A journal entry in one line."""
    change = f" ({figure(entry.before)} → {figure(entry.after)})" if (entry.before, entry.after) != (None, None) else ""
    where = f" {entry.where}" if entry.where else ""
    why = f": {entry.why}" if entry.why else ""
    return f"{entry.component} {entry.action}{where}{change}{why}"


def gone(events: Sequence[FindingEvent]) -> list[FindingEvent]:
    """The events of resolved findings, newest last."""
    return [event for event in events if event.event == "gone"]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_value(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(v) for v in value)
    return figure(value)
