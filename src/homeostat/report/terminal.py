"""Terminal output: rich tables of findings, runs and the journal, and the summary at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from homeostat.core.finding import Finding, JournalEntry
from homeostat.record.ranks import other_ranks
from homeostat.record.reader import RunMeta, RunReader
from homeostat.report import formatting

STYLES = {"critical": "bold red", "warning": "yellow", "info": "blue", "healthy": "green", "unknown": ""}
NARROW = 100
"""Below this number of columns, findings are printed as a list instead of a table."""


def findings_table(findings: Sequence[Finding], title: str | None = None) -> Table:
    """Findings in the given order: condition, severity, first step, layers, evidence and prescriptions."""
    table = Table(title=title, title_justify="left", show_lines=True, expand=False)
    table.add_column("finding", no_wrap=True)
    table.add_column("since step", justify="right", no_wrap=True)
    table.add_column("evidence", ratio=2, min_width=24, overflow="fold")
    table.add_column("what usually helps, and its study", ratio=5, min_width=30, overflow="fold")
    for finding in findings:
        name = Group(Text(finding.condition), severity(finding.severity), *_cause(finding))
        table.add_row(name, f"{finding.since_step:,}", _evidence(finding), _remedies(finding, 3))
    return table


def findings_list(findings: Sequence[Finding]) -> RenderableType:
    """Findings as a list, for a narrow terminal."""
    parts: list[Text] = []
    for finding in findings:
        head = Text.assemble(severity(finding.severity), f"  {finding.condition} since step {finding.since_step:,}")
        parts += [head, *_cause(finding), _evidence(finding), _remedies(finding, 3), Text()]
    return Group(*parts[:-1])


def _cause(finding: Finding) -> list[Text]:
    return [Text(f"follows from {finding.follows}")] if finding.follows else []


def severity(name: str, word: str = "") -> Text:
    """A severity as symbol, word and colour; None as word means its name."""
    return Text(f"{formatting.MARKS.get(name, '')} {word or name}", style=STYLES.get(name, ""))


def runs_list(runs: Iterable[RunMeta]) -> Table:
    """Runs in the given order, one line per run, for a narrow terminal: an id is shown by its end."""
    table = Table(box=None, pad_edge=False, expand=True)
    for name in ("run", "script", "status", "steps", "time", "started"):
        ratio = 1 if name == "script" else None  # only the script's name is cut
        table.add_column(name, no_wrap=True, ratio=ratio, justify="right" if name in ("steps", "time") else "left")
    for m in runs:
        name = Path(formatting.typed_script(m)).name
        cells = (f"...{m.run[-4:]}", name, m.status, f"{m.steps:,}", formatting.duration(m.wall_seconds))
        table.add_row(*map(Text, cells), Text(formatting.moment(m.started_utc)))
    return table


def runs_table(runs: Iterable[RunMeta]) -> Table:
    """Runs in the given order, one per row."""
    table = Table()
    table.add_column("run", overflow="fold")
    table.add_column("script", overflow="fold")
    table.add_column("status")
    table.add_column("steps", justify="right")
    table.add_column("time", justify="right")
    table.add_column("overhead", justify="right")
    table.add_column("started", overflow="fold")
    for m in runs:
        cells = (
            m.run,
            m.script,
            m.status,
            f"{m.steps:,}",
            formatting.duration(m.wall_seconds),
            formatting.percent(m.overhead),
        )
        table.add_row(*map(Text, cells), Text(formatting.moment(m.started_utc)))
    return table


def journal_table(entries: Sequence[JournalEntry], most: int | None = None) -> Table:
    """The last `most` journal entries, oldest first, and the number of earlier entries."""
    left_out = 0 if most is None else max(0, len(entries) - most)
    table = Table(caption=f"and {left_out:,} earlier entries" if left_out else None)
    table.add_column("step", justify="right")
    for name in ("component", "action", "where"):
        table.add_column(name, overflow="fold")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    table.add_column("why", overflow="fold")
    for e in entries[left_out:]:
        cells = (
            f"{e.step:,}",
            e.component,
            e.action,
            e.where,
            formatting.figure(e.before),
            formatting.figure(e.after),
            e.why,
        )
        table.add_row(*map(Text, cells))
    return table


def journal_list(entries: Sequence[JournalEntry], most: int | None = None) -> RenderableType:
    """The journal as a list, for a narrow terminal."""
    left_out = 0 if most is None else max(0, len(entries) - most)
    lines = [Text(f"  step {entry.step:,}: {formatting.journal_line(entry)}") for entry in entries[left_out:]]
    return Group(*lines, *([Text(f"  and {left_out:,} earlier entries")] if left_out else []))


def print_summary(reader: RunReader, console: Console, journal_rows: int = 8) -> None:
    """Print the state of the run, its findings with prescriptions, the journal, and the path of the record.

    Colours follow the console (NO_COLOR, not a terminal). Below `NARROW` columns, lists replace the tables.
    """
    meta, findings, vitals = reader.meta, reader.findings(), reader.vitals()
    failed = reader.failures()
    kind = formatting.health(findings, meta.steps, bool(vitals), failed)
    mark = formatting.MARKS.get(kind, "✓" if kind == "healthy" else "?")
    console.print(Text.assemble((f"{mark} ", STYLES[kind]), formatting.headline(findings, meta, bool(vitals), failed)))
    if findings:
        console.print(findings_table(findings) if console.width >= NARROW else findings_list(findings))
    for event in formatting.gone(reader.finding_events())[-3:]:
        said = f"{event.finding.condition}{formatting.within(event.finding.layers)} was resolved at step {event.step:,}"
        console.print(Text(said, style="dim"))
    for line in formatting.rank_lines(meta, other_ranks(reader)):
        console.print(Text(line))
    if journal := reader.journal():
        console.print(Text(f"Journal: {len(journal):,} {'entry' if len(journal) == 1 else 'entries'}"))
        wide = console.width >= NARROW
        console.print(journal_table(journal, journal_rows) if wide else journal_list(journal, journal_rows))
    if missing := reader.not_measured():
        names = formatting.listed(list(dict.fromkeys(n.what for n in missing)), 4)
        console.print(Text(f"Not measured: {names} (see the record for reasons)", style="dim"))
    spent = f"{formatting.percent(meta.overhead)} of {formatting.duration(meta.wall_seconds)} spent in Homeostat"
    console.print(
        Text(f"{meta.steps:,} steps, {formatting.STATUS.get(meta.status, meta.status)}; {spent}", style="dim")
    )
    if meta.path is not None:
        console.print(Text(f"Record: {_near(meta.path)}"), soft_wrap=True)
        console.print(Text(f"Page:   homeostat report {_near(meta.path)}"), soft_wrap=True)


def _evidence(finding: Finding) -> Text:
    where = formatting.listed(list(finding.layers), 3) or "the whole network"
    return Text.assemble(formatting.evidence_text(finding), (f"\nin {where}", "dim"))


def _remedies(finding: Finding, most: int) -> Text:
    text = Text()
    for i, p in enumerate(finding.prescriptions[:most], 1):
        text.append("\n" * (i > 1) + f"{i}. {p.do}")
        if p.treatment:
            text.append(f"\n   --treat {p.treatment}", style="cyan")
        text.append(f"\n   {formatting.grounds(p)}", style="dim")
    if rest := len(finding.prescriptions) - most:
        text.append(f"\nand {rest} more" if rest > 0 else "")
    return text


def _near(path: Path) -> Path:
    """The path relative to the working directory, if it is inside it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
