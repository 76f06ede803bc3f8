"""Evidence of a component: the laws it passed, and the tests that compare it with an independent oracle.

One JSON file per component under `evidence/`, written by `scripts/evidence.py` alone. A file holds a digest of the code
that its laws ran (the component, the laws, and their imports), and a digest of the code of its oracle tests. Evidence
of other code does not count: a component is shown as unchecked until the command is run again. Comments, the words of
docstrings, the report and the docs are not part of that code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from homeostat.core.atomic_file import write_text
from homeostat.core.closure import Edits, closure
from homeostat.core.closure import digest as digest_of

_PACKAGES = frozenset(
    {"vitals", "treatments", "controllers", "objectives", "streams", "curves", "record", "diagnosis", "shell"}
)
"""Packages with their own tests. The evidence of a component depends only on its own package, that of a treatment also
on the shell, because its laws test what the shell does with it. The tests of the shell cover the other components.
"""


@dataclass(frozen=True)
class Evidence:
    """The record of one component.

    Args:
        component, kind: its registered name and kind.
        digest: of the code that its laws ran.
        passed, failed, declared: names of laws; declared are those that the component says it does not satisfy.
        skipped: law -> why it does not apply.
        oracles: ids of the tests marked `@pytest.mark.oracle("NAME")` that passed, as `tests/file.py::test`.
        oracle_digest: of the files of these tests and what they import.
    """

    component: str
    kind: str
    digest: str
    passed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    oracles: tuple[str, ...] = ()
    oracle_digest: str = ""

    @property
    def laws(self) -> str:
        """ "failed" if a law failed, else "declared" if an exception is declared, else "passed"; "none" apply to it."""
        if self.failed:
            return "failed"
        if self.declared:
            return "declared"
        return "passed" if self.passed else "none"


def digest(component: type[Any], edits: Edits | None = None) -> str:
    """Fingerprint of the code that the laws of a component run; "" if there is no source.

    Args:
        edits: texts to read instead of the files on disk.
    """
    laws = ("homeostat.testing.check", f"homeostat.testing.{component.kind}_laws")
    try:
        return _digest(component, [component.__module__, *laws], edits)
    except ImportError:  # defined at a prompt, or a kind without laws
        return ""


def oracle_digest(component: type[Any], tests: Iterable[Path], edits: Edits | None = None) -> str:
    """Fingerprint of the files of a component's oracle tests and of their imports; "" if there are none."""
    files = sorted(set(tests))
    return _digest(component, files, edits) if files else ""


def _digest(component: type[Any], start: Iterable[str | Path], edits: Edits | None) -> str:
    met = {*component.__module__.split(".")[1:2], *(["shell"] if component.kind == "treatment" else [])}
    return digest_of(closure(start, edits=edits, without=_PACKAGES - met), edits)


def evidence_folder() -> Traversable:
    """Folder of the evidence files."""
    return files("homeostat.catalogue").joinpath("evidence")


def evidence_of(component: type[Any], folder: Traversable | None = None) -> Evidence | None:
    """The evidence of this component; None if there is none, or only for other code."""
    source = (folder or evidence_folder()).joinpath(f"{component.kind}.{component.name}.json")
    if not source.is_file():
        return None
    stored = json.loads(source.read_text("utf-8"))
    row: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    found = Evidence(**row)
    return found if found.digest and found.digest == digest(component) else None


def laws_are_current(component: type[Any]) -> bool:
    """Whether the current code of the component has passed its laws."""
    found = evidence_of(component)
    return found is not None and not found.failed


def write_evidence(found: Evidence, folder: Path) -> None:
    """Write one evidence file, `KIND.NAME.json`."""
    text = json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n"
    write_text(folder / f"{found.kind}.{found.component}.json", text)
