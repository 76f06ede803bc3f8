"""Run every check on every method; write the results to results.json and the tables into docs/peers.md.

    python -m benchmarks.peers.run [--checkout NAME=FOLDER[@COMMIT] ...] [--docs docs/peers.md] [--json FILE]

Methods whose package is not installed, or whose checkout is not given, are skipped with a message.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from . import checkouts, own, registry
from .grid import CHECKS, put_all
from .method import Method, Outcome

HERE = Path(__file__).parent
BEGIN, END = "<!-- written by python -m benchmarks.peers.run -->", "<!-- end -->"
WORDS = {Outcome.PASS: "yes", Outcome.FAIL: "**no**", Outcome.NOT_APPLICABLE: "-"}


def methods(given: list[str]) -> list[Method]:
    """What can be asked here."""
    for text in given:
        name, _, rest = text.partition("=")
        folder, _, commit = rest.partition("@")
        checkouts.FOLDERS[name] = Path(folder).resolve()
        if commit:
            checkouts.COMMITS[name] = commit
    found: list[Method] = [kind() for kind in registry.METHODS if find_spec(kind.module) is not None]
    found += [kind() for kind in checkouts.METHODS if kind.name in checkouts.FOLDERS]
    found += [kind() for kind in own.METHODS]
    asked = {type(method) for method in found}
    for kind in (*registry.METHODS, *checkouts.METHODS):
        if kind not in asked:
            print(f"left out: {kind.title} (not installed, or no --checkout)", file=sys.stderr)
    return found


def ask(method: Method) -> dict[str, Any]:
    """One method's answers."""
    print(f"{method.title}: {method.origin}", file=sys.stderr)
    answers = {name: {"result": o.result, "evidence": o.evidence} for name, o in put_all(method).items()}
    facts = {"title": method.title, "kind": method.kind, "origin": method.origin, "note": method.note}
    return {**facts, "dtype": str(method.dtype).removeprefix("torch."), "checks": answers}


def cell(name: str, answer: dict[str, str]) -> str:
    """A result as the table has it; drawing from the user's stream is usual and not set in bold."""
    word = WORDS.get(answer["result"], answer["result"])
    return word.strip("*") if name == "users-randomness" else word


def table(results: list[dict[str, Any]], modules: bool) -> list[str]:
    """Check by method, for methods that put modules in or for all others."""
    some = [entry for entry in results if (entry["kind"] == "modules") == modules]
    lines = ["| | " + " | ".join(entry["title"] for entry in some) + " |", "|---|" + "---|" * len(some)]
    for check in CHECKS:
        if ("modules" in check.kinds) == modules:
            cells = " | ".join(cell(check.name, entry["checks"][check.name]) for entry in some)
            lines.append(f"| {check.title} | {cells} |")
    return lines


def details(entry: dict[str, Any]) -> list[str]:
    """A method's origin, note and everything that is not a plain yes, with the evidence."""
    lines = [f"### {entry['title']}", "", f"{entry['origin']}; {entry['dtype']} networks. {entry['note']}".rstrip(), ""]
    titles = {check.name: check.title for check in CHECKS}
    dull = (Outcome.PASS, Outcome.NOT_APPLICABLE)
    said = [
        f"- {titles[name]}: {answer['result'].replace(Outcome.FAIL, 'no')} ({answer['evidence']})"
        for name, answer in entry["checks"].items()
        if answer["result"] not in dull
    ]
    return [*lines, *(said or ["Nothing but yes where the check applies."]), ""]


def page(report: dict[str, Any]) -> str:
    """The generated part of the page, between the markers."""
    head = f"Run on {report['date']} with torch {report['torch']}, Python {report['python']}, on the CPU, one thread."
    lines = [head, "", *table(report["methods"], False), "", *table(report["methods"], True), ""]
    for entry in report["methods"]:
        lines += details(entry)
    return "\n".join(lines)


def main() -> None:
    """Run the checks, write the results, print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", action="append", default=[], metavar="NAME=FOLDER[@COMMIT]")
    parser.add_argument("--json", type=Path, default=HERE / "results.json")
    parser.add_argument("--docs", type=Path, help="page whose marked part is written anew")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "checks": {check.name: (check.ask.__doc__ or "").split("\n")[0] for check in CHECKS},
    }
    report["methods"] = [ask(method) for method in methods(options.checkout)]
    options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    text = page(report)
    if options.docs is not None:
        before, _, rest = options.docs.read_text().partition(BEGIN)
        options.docs.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}")
    print(text)


if __name__ == "__main__":
    main()
