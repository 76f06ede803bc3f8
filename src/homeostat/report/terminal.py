"""A run in the terminal: rich tables for findings, runs and the journal, and the summary at a run's end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from homeostat.core.finding import Finding, JournalEntry
from homeostat.record.reader import RunMeta, RunReader
from homeostat.report import words

STYLES = {"critical": "bold red", "warning": "yellow", "info": "blue", "healthy": "green", "unknown": ""}
NARROW = 100
"""Columns below which findings are told one under the other instead of in a table."""


def findings_table(findings: Sequence[Finding], title: str | None = None) -> Table:
    """Findings, worst first: condition, severity, since which step, where, evidence, what usually helps and why."""
    table = Table(title=title, title_justify="left", show_lines=True, expand=False)
    table.add_column("finding", no_wrap=True)
    table.add_column("since step", justify="right", no_wrap=True)
    table.add_column("evidence", ratio=2, min_width=24, overflow="fold")
    table.add_column("what usually helps, on what evidence", ratio=5, min_width=30, overflow="fold")
    for finding in words.ranked(findings):
        name = Group(Text(finding.condition), severity(finding.severity))
        table.add_row(name, f"{finding.since_step:,}", _evidence(finding), _remedies(finding, 3))
    return table


def findings_list(findings: Sequence[Finding]) -> RenderableType:
    """The same for a narrow terminal: one finding under the other."""
    parts: list[Text] = []
    for finding in words.ranked(findings):
        head = Text.assemble(severity(finding.severity), f"  {finding.condition} since step {finding.since_step:,}")
        parts += [head, _evidence(finding), _remedies(finding, 3), Text()]
    return Group(*parts[:-1])


def severity(name: str) -> Text:
    """A severity by shape, word and colour."""
    return Text(f"{words.MARKS.get(name, '')} {name}", style=STYLES.get(name, ""))


def runs_table(runs: Iterable[RunMeta]) -> Table:
    """Runs as they were given, one a row."""
    table = Table()
    table.add_column("run", overflow="fold")
    table.add_column("script", overflow="fold")
    table.add_column("status")
    table.add_column("steps", justify="right")
    table.add_column("time", justify="right")
    table.add_column("overhead", justify="right")
    table.add_column("started", overflow="fold")
    for m in runs:
        cells = (m.run, m.script, m.status, f"{m.steps:,}", words.duration(m.wall_seconds), words.percent(m.overhead))
        table.add_row(*map(Text, cells), Text(words.moment(m.started_utc)))
    return table


def journal_table(entries: Sequence[JournalEntry], most: int | None = None) -> Table:
    """The journal, oldest first; of more than `most` entries the last ones, and how many came before."""
    left_out = 0 if most is None else max(0, len(entries) - most)
    table = Table(caption=f"and {left_out:,} earlier entries" if left_out else None)
    table.add_column("step", justify="right")
    for name in ("who", "action", "where"):
        table.add_column(name, overflow="fold")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    table.add_column("why", overflow="fold")
    for e in entries[left_out:]:
        cells = (f"{e.step:,}", e.component, e.action, e.where, words.figure(e.before), words.figure(e.after), e.why)
        table.add_row(*map(Text, cells))
    return table


def journal_list(entries: Sequence[JournalEntry], most: int | None = None) -> RenderableType:
    """The same for a narrow terminal: one entry a paragraph."""
    left_out = 0 if most is None else max(0, len(entries) - most)
    lines = [Text(f"  step {entry.step:,}: {words.told(entry)}") for entry in entries[left_out:]]
    return Group(*lines, *([Text(f"  and {left_out:,} earlier entries")] if left_out else []))


def print_summary(reader: RunReader, console: Console, journal_rows: int = 8) -> None:
    """How the run is, what was found, what usually helps and on what evidence, what was done, where the record is.

    Colours follow the console (NO_COLOR, not a terminal); below `NARROW` columns findings stand one under the other.
    """
    meta, findings, vitals = reader.meta, reader.findings(), reader.vitals()
    kind = words.health(findings, meta.steps, bool(vitals))
    mark = words.MARKS.get(kind, "✓" if kind == "healthy" else "?")
    console.print(Text.assemble((f"{mark} ", STYLES[kind]), words.headline(findings, meta, bool(vitals))))
    if findings:
        console.print(findings_table(findings) if console.width >= NARROW else findings_list(findings))
    for event in words.gone(reader.finding_events())[-3:]:
        said = f"{event.finding.condition}{words.within(event.finding.layers)} was gone at step {event.step:,}"
        console.print(Text(said, style="dim"))
    if journal := reader.journal():
        console.print(Text(f"Journal: {len(journal):,} {'entry' if len(journal) == 1 else 'entries'}"))
        wide = console.width >= NARROW
        console.print(journal_table(journal, journal_rows) if wide else journal_list(journal, journal_rows))
    if missing := reader.not_measured():
        names = words.listed(list(dict.fromkeys(n.what for n in missing)), 4)
        console.print(Text(f"Not measured: {names} (the record says why)", style="dim"))
    spent = f"{words.percent(meta.overhead)} of {words.duration(meta.wall_seconds)} spent in Homeostat"
    console.print(Text(f"{meta.steps:,} steps, {words.STATUS.get(meta.status, meta.status)}; {spent}", style="dim"))
    if meta.path is not None:
        console.print(Text(f"Record: {_near(meta.path)}"), soft_wrap=True)
        console.print(Text(f"Page:   homeostat report {_near(meta.path)}"), soft_wrap=True)


def _evidence(finding: Finding) -> Text:
    where = words.listed(list(finding.layers), 3) or "the whole network"
    return Text.assemble(words.evidence_text(finding), (f"\nin {where}", "dim"))


def _remedies(finding: Finding, most: int) -> Text:
    text = Text()
    for i, p in enumerate(finding.prescriptions[:most], 1):
        text.append("\n" * (i > 1) + f"{i}. {p.do}")
        if p.treatment:
            text.append(f"\n   --treat {p.treatment}", style="cyan")
        text.append(f"\n   {words.grounds(p)}", style="dim")
    if rest := len(finding.prescriptions) - most:
        text.append(f"\nand {rest} more" if rest > 0 else "")
    return text


def _near(path: Path) -> Path:
    """The path as seen from here, when it lies below the working directory."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
