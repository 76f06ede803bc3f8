"""The report as a Markdown page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from homeostat.clinic.cures import as_table
from homeostat.clinic.programs import ARCHITECTURES, FAULTS, VARIANTS
from homeostat.clinic.split import DEVELOPMENT, HELD_OUT
from homeostat.clinic.styles import STYLES

_INTRO = """# The clinic

This page shows how often the diagnosis is right on whole training programs. Each program is a separate script with an
architecture, an optimizer, data, batches, a schedule, a way to log, a layout, and one fault or none. It runs under
`homeostat run`. The budget counts processor time instead of wall time, so a busy machine does not change the findings.
The script itself prints whether its fault took effect, and from which step on, computed from its own tensors. A program
whose fault had no effect, or a healthy program that did not learn, is "unclear" and not counted.

Families (architecture and layout of the script) are split in two halves. Rules and thresholds may be tuned on the
development half. The held-out half is used for figures only. All programs are small and come from one generator, so
other faults, larger networks and scripts by other authors are not covered.

- **recall**: share of the programs of a condition in which it was raised above `info`, at any step.
- **named**: the same, but another condition that names the same fault counts too.
- **first**: share of the programs in which the finding that is shown first names the fault.
- **precision**: share of the programs with this finding in which it names the fault. Consequences of a fault (a stalled
  loss, dead units, ...) are not counted on sick programs. On a healthy program every finding is wrong.
- **lead**: median of the steps from the onset of the fault to the finding.
"""

_CURES = """\
Share of sick programs that were cured: the last loss equals that of the same program without the fault, up to 5% of
what that program gained. Programs whose fault does not raise the last loss are left out, and so are conditions without
a treatment. "Closed loop" is `--treat auto`. "Random treatment" is a random one of all treatments in the table of
remedies. "Restart" is the program with other initial weights.
"""


def as_markdown(report: Mapping[str, Any], command: str) -> str:
    """The Markdown page."""
    parts = [_INTRO, f"Written by `{command}`.\n", _overview(report)]
    for side in (HELD_OUT, DEVELOPMENT):
        parts.append(f"## Conditions, {side} families\n\n{_conditions(report[side]['conditions'])}")
    parts.append(
        f"## Taken for\n\nThe finding that was shown first, over all programs of a condition.\n\n{_taken(report)}"
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
    """The smallest and the largest figure over the held-out halves of other splits."""
    spreads = {
        "macro-F1": [h["macro_f1"] for h in halves],
        "recall": [h["recall"]["share"] for h in halves],
        "healthy programs with a false alarm": [h["false_alarms"]["programs"]["share"] for h in halves],
    }
    rows = [f"- {name}: {_number(min(v))} to {_number(max(v))}" for name, v in spreads.items()]
    return f"The same figures on the held-out halves of {len(halves)} other splits:\n\n" + "\n".join(rows) + "\n"


def _contents() -> str:
    """The faults, variants, architectures and styles of the generator."""
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
