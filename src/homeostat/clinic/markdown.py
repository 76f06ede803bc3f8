"""The report as a page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from homeostat.clinic.cures import as_table
from homeostat.clinic.programs import ARCHITECTURES, FAULTS, VARIANTS
from homeostat.clinic.split import DEVELOPMENT, HELD_OUT
from homeostat.clinic.styles import STYLES

_INTRO = """# The clinic

How often the diagnosis is right on whole training programs. Every program is a script of its own: an architecture, an
optimizer, data, batches, a schedule, a way to log and a style of writing, with one fault or none. It is run as
`homeostat run` runs it, except that the budget counts time of the processor instead of the clock, so that a busy
machine does not change what is found. Whether a fault took effect, and since which step, is printed by the script
itself from its own tensors; a program in which it did not, or which did not learn although it is healthy, is "unclear"
and not counted.

Families (architecture and style of script) are split in two halves. Rules and thresholds may be changed with the
development half in view; the held-out half only gives figures. The programs are small and made by one generator: other
faults, other sizes and other hands are not covered.

- **recall**: share of the programs of a condition in which it was raised above `info`, at any step.
- **named**: the same, or another condition that names the same fault.
- **first**: the finding that is shown first names the fault.
- **precision**: of the programs in which the condition was raised, the share in which it is the fault; what follows
  from a fault (a stalled loss, dead units, ...) counts as neither right nor wrong there, but always as wrong on a
  healthy program.
- **lead**: steps from the onset to the finding, median.
"""

_CURES = """\
Share of sick programs that were cured: the last loss is that of the same program without the fault, up to 5% of what
that program gained. Programs in which the fault does no such harm are left out, and conditions that no treatment here
is meant for. "Closed loop" is `--treat auto`; "random treatment" is one of all treatments of the table of remedies;
"restart" is the program with other initial weights.
"""


def as_markdown(report: Mapping[str, Any], command: str) -> str:
    """The page."""
    parts = [_INTRO, f"Written by `{command}`.\n", _overview(report)]
    for side in (HELD_OUT, DEVELOPMENT):
        parts.append(f"## Conditions, {side} families\n\n{_conditions(report[side]['conditions'])}")
    parts.append(
        f"## Taken for\n\nThe finding that was shown first, in all programs of a condition.\n\n{_taken(report)}"
    )
    parts.append(f"## False alarms on healthy programs\n\n{_alarms(report)}")
    parts.append(f"## The programs\n\n{_contents()}")
    if "cures" in report:
        parts.append(f"## Treatment\n\n{_CURES}\n{as_table(report['cures'])}\n")
    if report["resplits"]:
        parts.append(f"## Other splits\n\n{_resplits(report['resplits'])}")
    return "\n".join(parts)


def _overview(report: Mapping[str, Any]) -> str:
    rows = ["| | held out | development |", "|---|---|---|"]
    sides = (report[HELD_OUT], report[DEVELOPMENT])
    for title, cell in (
        ("sick programs", lambda f: f["programs"]["sick"]),
        ("healthy programs", lambda f: f["programs"]["healthy"]),
        ("unclear programs", lambda f: f["programs"]["unclear"]),
        ("programs in which a part of Homeostat failed", lambda f: f["programs"]["without an answer"]),
        ("macro-F1 over conditions", lambda f: _number(f["macro_f1"])),
        ("sick programs whose condition was raised", lambda f: _rate(f["recall"])),
        ("sick programs with any finding", lambda f: _rate(f["detected"])),
        ("... of which the fault was named", lambda f: _rate(f["named_given_detected"])),
        ("... of which the fault was named first", lambda f: _rate(f["named_first_given_detected"])),
        ("healthy programs with a false alarm", lambda f: _rate(f["false_alarms"]["programs"])),
        ("false alarms in 1,000 healthy steps", lambda f: _per_steps(f["false_alarms"])),
    ):
        rows.append(f"| {title} | {' | '.join(str(cell(side)) for side in sides)} |")
    return "\n".join(rows) + "\n\nIntervals are exact (Clopper-Pearson; Garwood for counts), 95%.\n"


def _conditions(rows: Mapping[str, Mapping[str, Any]]) -> str:
    found = [
        "| condition | programs | architectures | recall | named | first | precision | F1 | lead |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        mark = "" if row["exists"] else " (no such condition)"
        cells = (row["programs"], row["architectures"], *(_number(row[k]) for k in _SHARES), _number(row["lead"], 0))
        found.append(f"| `{name}`{mark} | {' | '.join(map(str, cells))} |")
    return "\n".join(found) + "\n"


_SHARES = ("recall", "named", "named_first", "precision", "f1")


def _taken(report: Mapping[str, Any]) -> str:
    rows = ["| condition | shown first |", "|---|---|"]
    for name, row in report["all"]["conditions"].items():
        shown = ", ".join(f"{other} {count}" for other, count in row["taken_for"].items())
        rows.append(f"| `{name}` | {shown} |")
    return "\n".join(rows) + "\n"


def _alarms(report: Mapping[str, Any]) -> str:
    sides = [report[side]["false_alarms"]["by_condition"] for side in (HELD_OUT, DEVELOPMENT)]
    names = sorted({name for side in sides for name in side})
    rows = ["| condition | held out | development |", "|---|---|---|"]
    rows += [f"| `{name}` | {sides[0].get(name, 0)} | {sides[1].get(name, 0)} |" for name in names]
    return "\n".join(rows) + "\n"


def _resplits(halves: list[Mapping[str, Any]]) -> str:
    """Of the halves that other splits hold out: the smallest and the largest figure."""
    spreads = {
        "macro-F1": [h["macro_f1"] for h in halves],
        "recall": [h["recall"]["share"] for h in halves],
        "healthy programs with a false alarm": [h["false_alarms"]["programs"]["share"] for h in halves],
    }
    rows = [f"- {name}: {_number(min(v))} to {_number(max(v))}" for name, v in spreads.items()]
    return f"The same figures on the held-out halves of {len(halves)} other splits:\n\n" + "\n".join(rows) + "\n"


def _contents() -> str:
    """What the generator knows."""
    rows = ["| fault | named by | architectures |", "|---|---|---|"]
    rows += [f"| {f.name} | {', '.join(f'`{n}`' for n in f.names)} | {', '.join(f.archs)} |" for f in FAULTS]
    variants = ", ".join(variant.name for variant in VARIANTS)
    return (
        f"{len(ARCHITECTURES)} architectures ({', '.join(ARCHITECTURES)}) in {len(STYLES)} styles "
        f"({', '.join(STYLES)}). Healthy variants: {variants}.\n\n" + "\n".join(rows) + "\n\n"
        "`homeostat clinic --show N` prints a program.\n"
    )


def _number(value: float, digits: int = 2) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _rate(rate: Mapping[str, Any]) -> str:
    if not rate["of"]:
        return ""
    return f"{rate['count']} of {rate['of']}: {rate['share']:.0%} ({rate['low']:.0%} to {rate['high']:.0%})"


def _per_steps(alarms: Mapping[str, Any]) -> str:
    if not alarms["steps"]:
        return ""
    return f"{alarms['per_1000_steps']:.3f} (at most {alarms['per_1000_steps_at_most']:.3f})"
