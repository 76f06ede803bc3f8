"""Write docs/laws.md, the grid of components and laws, from the laws themselves and the evidence beside the catalogue.

With --check: only say whether it is up to date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pages import keep

from homeostat.catalogue.evidence import evidence_folder
from homeostat.core.component import Component, components, kinds
from homeostat.testing.check import check_component, kinds_with_laws, laws_of_kind

PAGE = Path(__file__).resolve().parents[1] / "docs" / "laws.md"
HEAD = """# Laws

A law is a small named check that every component of a kind must pass. `homeostat check NAME` checks a component of this
library, `homeostat check FILE.py` or `homeostat check PACKAGE.MODULE:NAME` your own;
`homeostat.testing.check_component` does the same from Python. A component that is known not to satisfy a law declares
this with the reason. A declaration is an error if the law is satisfied.

In the grids below, ✓ means satisfied, **d** declared as not satisfied, · does not apply (the reasons follow the grid),
and **✗** broken. `make evidence` writes this page from the results of the checks.
"""
MARKS = {"passed": "✓", "declared": "**d**", "skipped": "·", "failed": "**✗**"}


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, summary(), *(section(kind) for kind in ours())]).rstrip() + "\n"


def ours() -> dict[str, list[type[Component]]]:
    """Kind -> the library's own components, of the kinds that have laws."""
    found = {}
    for kind in kinds_with_laws():
        own = [c for c in components(kind).values() if c.__module__.startswith("homeostat.")] if kind in kinds() else []
        if own:
            found[kind] = own
    return found


def outcome(component: type[Component]) -> dict[str, Any]:
    """The stored outcome of each law; studies, which have no evidence and are quickly checked, are checked now."""
    if component.kind == "study":
        report = check_component(component)
        return {
            "passed": report.passed,
            "failed": report.failed,
            "declared": report.declared,
            "skipped": report.skipped,
        }
    stored = evidence_folder().joinpath(f"{component.kind}.{component.name}.json")
    return json.loads(stored.read_text("utf-8")) if stored.is_file() else {}


def mark(found: Mapping[str, Any], law: str) -> str:
    return next((sign for key, sign in MARKS.items() if law in found.get(key, ())), "?")


def summary() -> str:
    """How many laws and components of each kind there are, and what came out."""
    lines = [
        "| kind | laws | components | satisfied | declared | do not apply | broken |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, own in ours().items():
        marks = [mark(outcome(c), law) for c in own for law in laws_of_kind(kind)]
        counts = [str(marks.count(MARKS[key])) for key in ("passed", "declared", "skipped", "failed")]
        lines.append(" | ".join([f"| [{kind}](#{kind})", str(len(laws_of_kind(kind))), str(len(own)), *counts]) + " |")
    return "\n".join([*lines, ""])


def section(kind: str) -> str:
    """The laws of a kind, its grid, and the reasons."""
    laws, own = laws_of_kind(kind), ours()[kind]
    found = {c.name: outcome(c) for c in own}
    told = [f"{number}. **{law}**: {sentence}" for number, (law, sentence) in enumerate(laws.items(), 1)]
    head = ["| component | " + " | ".join(str(n) for n in range(1, len(laws) + 1)) + " |", "|---|" + "---|" * len(laws)]
    rows = [f"| `{name}` | " + " | ".join(mark(one, law) for law in laws) + " |" for name, one in found.items()]
    return "\n".join([f"## {kind}\n", *told, "", *head, *rows, "", *declared(own), *skipped(found, list(laws))])


def declared(own: list[type[Component]]) -> list[str]:
    """Every declaration with its reason."""
    told = [f"- `{c.name}` does not keep *{law}*: {why}." for c in own for law, why in c.declared.items()]
    return [*told, ""] if told else []


def skipped(found: Mapping[str, Mapping[str, Any]], laws: list[str]) -> list[str]:
    """Why laws do not apply: one line for each reason, with the laws by number and the components."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for name, one in found.items():
        for law, why in one.get("skipped", {}).items():
            if law in laws:
                reasons.setdefault(why, {}).setdefault(name, []).append(str(laws.index(law) + 1))
    if not reasons:
        return []
    told = []
    for why, by_name in reasons.items():
        groups: dict[str, list[str]] = {}
        for name, numbers in by_name.items():
            groups.setdefault(", ".join(sorted(numbers, key=int)), []).append(name)
        said = "; ".join(f"{numbers} of {everyone(names, found)}" for numbers, names in groups.items())
        told.append(f"- {why}: {said}.")
    return ["Does not apply, because:", "", *told, ""]


def everyone(names: list[str], found: Mapping[str, Any]) -> str:
    return "every one" if len(names) == len(found) > 1 else ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    sys.exit(keep(PAGE, page(), "evidence"))
