"""Output of the demo: both arms side by side while they run, then a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from homeostat.core.finding import Finding, JournalEntry
from homeostat.demo.arm import FIRST_SEED, LATE, Progress

_BLOCKS = "▁▂▃▄▅▆▇█"
_NEWS = 6
_TELLING = ("attach", "keep", "strengthen", "revert", "stop", "refuse", "give up", "error")
_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


@dataclass
class ArmState:
    """State of one arm, built from its messages."""

    name: str
    seeds: int
    tasks: int
    accuracies: dict[int, list[float]] = field(default_factory=dict)
    vitals: dict[str, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    news: list[JournalEntry] = field(default_factory=list)
    record: str = ""
    seed: int = FIRST_SEED

    def hear(self, progress: Progress) -> None:
        """Update the state from a message."""
        if progress.seed != self.seed:
            self.seed, self.news = progress.seed, []
        self.accuracies.setdefault(progress.seed, []).append(progress.accuracy)
        self.vitals, self.findings = progress.vitals, progress.findings
        self.news += [e for e in progress.news if e.action in _TELLING]
        if progress.seed == FIRST_SEED:
            self.record = progress.record

    @property
    def finished(self) -> bool:
        """Whether every task of every seed is done."""
        return sum(len(a) for a in self.accuracies.values()) >= self.seeds * self.tasks

    def late(self) -> dict[int, float]:
        """Seed -> mean accuracy over the last tasks, for finished seeds."""
        done = {seed: values for seed, values in self.accuracies.items() if len(values) == self.tasks}
        return {seed: sum(v[-LATE:]) / len(v[-LATE:]) for seed, v in done.items()}


def live_view(arms: Sequence[ArmState], width: int) -> RenderableType:
    """Both arms side by side, or one below the other on a narrow terminal."""
    panels = [_panel(arm) for arm in arms]
    return Columns(panels, equal=True, expand=True) if width >= 100 else Group(*panels)


def _panel(arm: ArmState) -> Panel:
    done = sum(len(a) for a in arm.accuracies.values())
    values = arm.accuracies.get(arm.seed, [])
    lines: list[RenderableType] = [
        ProgressBar(total=arm.seeds * arm.tasks, completed=done),
        Text(f"seed {arm.seed - FIRST_SEED + 1} of {arm.seeds}, task {len(values)} of {arm.tasks}", style="dim"),
        Text.assemble(("accuracy by task  ", "dim"), sparkline(values), f"  {values[-1]:.2f}" if values else ""),
        _vitals(arm.vitals),
        *_findings(arm.findings),
        *[_line(entry) for entry in arm.news[-_NEWS:]],
    ]
    return Panel(Group(*lines), title=arm.name, title_align="left")


def sparkline(values: Sequence[float]) -> str:
    """The last forty accuracies, from 0 to 1, as a bar chart in text."""
    shown = values[-40:]
    return "".join(_BLOCKS[min(int(v * len(_BLOCKS)), len(_BLOCKS) - 1)] for v in shown if v == v)


def _vitals(vitals: Mapping[str, float]) -> Text:
    parts: list[str] = []
    if "dormant-units" in vitals:
        parts.append(f"dormant units {vitals['dormant-units']:.0%}")
    if "effective-rank" in vitals:
        parts.append(f"effective rank {vitals['effective-rank']:.1f}")
    return Text(", ".join(parts) + (" (worst layer)" if parts else "measuring ..."))


def _findings(findings: Sequence[Finding]) -> list[Text]:
    grave = [f for f in findings if f.severity != "info"]
    if not grave:
        return [Text("no finding", style="dim")]
    return [
        Text(f"{f.condition} ({f.severity}) since step {f.since_step}", style=_STYLES[f.severity]) for f in grave[:3]
    ]


def _line(entry: JournalEntry) -> Text:
    text = f"{entry.step:>6}  {entry.action} {entry.detail.get('treatment') or entry.component}: {entry.why}"
    return Text(text, overflow="ellipsis", no_wrap=True, style="green")


def outcome_table(rows: Sequence[tuple[str, float, tuple[float, float], int]]) -> Table:
    """Late-task accuracy of each arm with its 95% interval over seeds."""
    table = Table(title=f"Accuracy over the last {LATE} tasks", title_justify="left")
    table.add_column("arm")
    table.add_column("mean", justify="right")
    table.add_column("95% interval over seeds", justify="right")
    table.add_column("seeds", justify="right")
    for name, mean, (low, high), seeds in rows:
        table.add_row(name, f"{mean:.3f}", f"{low:.3f} to {high:.3f}", str(seeds))
    return table
