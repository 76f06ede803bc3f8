"""Check every component's laws, run the tests that are its oracle, and keep both beside the catalogue.

Writes src/homeostat/catalogue/evidence/KIND.NAME.json for every component but the studies, and removes the files of
components that are gone. A component whose evidence is of the present code is skipped.

    python scripts/evidence.py              what changed
    python scripts/evidence.py --all        everything
    python scripts/evidence.py NAME...      these
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from homeostat.catalogue.evidence import Evidence, digest, evidence_of, laws_are_current, oracle_digest, write_evidence
from homeostat.core.component import components, kinds
from homeostat.core.errors import UnknownName
from homeostat.testing.check import Report, check_component

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "src" / "homeostat" / "catalogue" / "evidence"


def ours() -> dict[str, type[Any]]:
    """`KIND.NAME` -> every component of the package that has evidence."""
    return {
        f"{kind}.{name}": component
        for kind in kinds()
        for name, component in components(kind).items()
        if kind != "study" and component.__module__.startswith("homeostat.")
    }


def oracles(tests: Path = ROOT / "tests") -> dict[str, list[str]]:
    """Component name -> ids of the tests marked `@pytest.mark.oracle("NAME", ...)`, read from the test files."""
    found: dict[str, list[str]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                for name in marked(node):
                    found.setdefault(name, []).append(f"{path.relative_to(tests.parent).as_posix()}::{node.name}")
    return found


def marked(function: ast.FunctionDef) -> list[str]:
    """The names given to the oracle marks of a test function."""
    calls = [d for d in function.decorator_list if isinstance(d, ast.Call)]
    ours = [c for c in calls if ast.unparse(c.func) == "pytest.mark.oracle"]
    return [a.value for c in ours for a in c.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]


def oracles_digest(component: type[Any], tests: Iterable[str]) -> str:
    """Fingerprint of the code of oracle tests, given by their ids."""
    return oracle_digest(component, [ROOT / test.partition("::")[0] for test in tests])


def stale(component: type[Any], tests: Sequence[str]) -> bool:
    """Whether a component has no evidence of its present code and its present oracle tests."""
    found = evidence_of(component)
    return (
        found is None
        or not laws_are_current(component)
        or found.oracles != tuple(tests)
        or found.oracle_digest != oracles_digest(component, tests)
    )


def gather(component: type[Any], tests: Sequence[str], again: bool) -> Evidence:
    """The record of one component as it is now; its laws are checked if they have to be, or again if asked for.

    Args:
        tests: its oracle tests, which have passed.
    """
    known = evidence_of(component)
    if known is None or again or not laws_are_current(component):
        known = checked(component)
    return replace(known, oracles=tuple(tests), oracle_digest=oracles_digest(component, tests))


def checked(component: type[Any]) -> Evidence:
    """What the laws say about a component."""
    try:
        report = check_component(component)
    except UnknownName:  # a kind that has no laws
        report = Report(component.name)
    return Evidence(
        component=component.name,
        kind=component.kind,
        digest=digest(component),
        passed=tuple(report.passed),
        failed=tuple(report.failed),
        declared=tuple(report.declared),
        skipped=dict(sorted(report.skipped.items())),
    )


def run_oracles(ids: Iterable[str]) -> bool:
    """Run these tests, slow ones too, and say whether all passed."""
    tests = sorted(set(ids))
    if not tests:
        return True
    print(f"running {len(tests)} oracle tests", flush=True)
    return subprocess.run([sys.executable, "-m", "pytest", "-m", "", *tests], cwd=ROOT, check=False).returncode == 0


def remove_gone(kept: Mapping[str, Any]) -> None:
    """Remove the files of components that are not there any more."""
    for path in FOLDER.glob("*.json"):
        if path.name.removesuffix(".json") not in kept:
            path.unlink()
            print(f"removed {path.name}")


def main(arguments: Sequence[str]) -> int:
    tests, everything = oracles(), ours()
    names = {name for name in arguments if name != "--all"}
    if unknown := sorted((names | set(tests)) - {c.name for c in everything.values()}):
        print(f"asked for, or in oracle marks, but no component: {', '.join(unknown)}")
        return 1
    again = "--all" in arguments or bool(names)
    asked = [c for c in everything.values() if not names or c.name in names]
    todo = [c for c in asked if again or stale(c, tests.get(c.name, []))]
    print(f"{len(todo)} of {len(everything)} components to check", flush=True)
    if not run_oracles(test for c in todo for test in tests.get(c.name, [])):
        print("an oracle test fails: nothing was written")
        return 1
    failed = 0
    for number, component in enumerate(todo, 1):
        found = gather(component, tests.get(component.name, []), again)
        write_evidence(found, FOLDER)
        failed += bool(found.failed)
        told = f"laws {found.laws}, {len(found.oracles)} oracle tests"
        print(f"[{number}/{len(todo)}] {component.kind} {component.name}: {told}", flush=True)
    remove_gone(everything)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
