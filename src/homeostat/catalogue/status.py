"""The state of each paper, derived from the code; nothing is set by hand.

components: registered components whose `entries` name the paper; study: the registered study that does; verdict: the
file the study harness wrote; laws and oracle: see `evidence`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from homeostat.catalogue.entries import Entry, entries
from homeostat.catalogue.evidence import evidence_of
from homeostat.core.closure import closure, digest
from homeostat.core.component import components, kinds
from homeostat.core.errors import BadInput

ORACLES = ("controller", "curve", "objective", "treatment", "vital")
"""Kinds that implement a formula of the paper and need an oracle. Streams and conditions do not."""

RUNS_CELLS = "homeostat.studies.lab.cell"
"""What runs every arm of every study."""

MACHINERY = frozenset({"core", "shell", "record", "diagnosis", "integrations", "testing"})
"""Packages with laws and tests of their own. Edits of them do not mark a verdict as judged on other code."""

VERDICTS = ("holds", "does not hold", "inconclusive", "not shown here")
BOUNDED = "no effect larger than "
"""Beginning of the verdict of a study that excludes larger effects; the number follows."""

EARLIER_RULE = "judged by the earlier rule: all expectations must hold"
OTHER_CODE = "judged before the code changed"


@dataclass(frozen=True)
class EntryState:
    """State of one paper.

    Args:
        components: sorted names of the components that implement it; empty if there are none.
        laws: result of all its components with laws: "failed" if one failed, None if one is unchecked (or there is
            none), "declared" if one declares an exception, else "passed".
        oracle: whether all of its components that implement a formula are tested against an independent restatement.
        study: id of its study, None if there is none. If there are several, one with a verdict.
        verdict: of that study: "holds", "does not hold", "no effect larger than X", "inconclusive", "not shown here" (a
            precondition failed), or None before its paper-budget run.
        notes: what qualifies the verdict; see `notes_on`.
    """

    components: tuple[str, ...] = ()
    laws: str | None = None
    oracle: bool = False
    study: str | None = None
    verdict: str | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "components": list(self.components),
            "laws": self.laws,
            "oracle": self.oracle,
            "study": self.study,
            "verdict": self.verdict,
            "notes": list(self.notes),
        }


def verdict_of(study: str, folder: Traversable | None = None) -> dict[str, Any] | None:
    """The verdict file of a study, None if the study has not been run at paper budget.

    Raises:
        BadInput: the file is not a verdict.
    """
    source = (folder or files("homeostat").joinpath("studies", "verdicts")).joinpath(f"{study}.json")
    if not source.is_file():
        return None
    found = json.loads(source.read_text("utf-8"))
    said = found.get("verdict")
    if said not in VERDICTS and not str(said).startswith(BOUNDED):
        raise BadInput(f"verdict file of {study!r}: its verdict is {said!r}, not one of {VERDICTS}")
    return found


def notes_on(study: type[Any], verdict: dict[str, Any]) -> tuple[str, ...]:
    """What qualifies a stored verdict: an earlier rule, or other code than the present one.

    The code is that of the study, its laboratory and its components. Files of the earlier rule have a fingerprint of
    all code that the runs used, the shell included.
    """
    found: list[str] = []
    if "rule" not in verdict:
        found.append(EARLIER_RULE)
    own = "method_code" in verdict
    if verdict.get("method_code" if own else "code") != code_of(study(), without=MACHINERY if own else ()):
        found.append(OTHER_CODE)
    return tuple(found)


def code_of(study: Any, arm: str = "", without: Collection[str] = ()) -> str:
    """Fingerprint of the code that the runs of a study depend on: its module, what runs it, what these import, and the
    components that its settings and an arm name; "" when the study has no source file.

    Args:
        without: packages to leave out, with everything that only they import.
    """
    settings = (value for value in study.settings().values() if isinstance(value, str))
    try:
        return digest(closure([type(study).__module__, RUNS_CELLS], (*settings, arm), without=without))
    except ImportError:
        return ""


def state(entry: Entry) -> EntryState:
    """The current state of a paper."""
    return _state(_serving().get(entry.id, []))


def to_json(chosen: Iterable[Entry] | None = None) -> dict[str, Any]:
    """`{"entries": [...]}`: every field of each entry and its state; all entries unless some are chosen."""
    serving = _serving()
    rows = entries() if chosen is None else chosen
    return {"entries": [{**e.to_json(), **_state(serving.get(e.id, [])).to_json()} for e in rows]}


def unknown_entries() -> dict[str, list[str]]:
    """Ids that components name but the catalogue lacks -> names of those components."""
    known = {e.id for e in entries()}
    return {id: [c.name for c in named] for id, named in _serving().items() if id not in known}


def _serving() -> dict[str, list[type[Any]]]:
    """Catalogue id -> every registered component, studies included, that names it."""
    found: dict[str, list[type[Any]]] = {}
    for kind in kinds():
        for component in components(kind).values():
            for id in component.entries:
                found.setdefault(id, []).append(component)
    return found


def _state(serving: list[type[Any]]) -> EntryState:
    parts = sorted((c for c in serving if c.kind != "study"), key=lambda c: c.name)
    study, verdict, notes = _studied({c.name: c for c in serving if c.kind == "study"})
    records = [evidence_of(c) for c in parts]
    formulas = [r for c, r in zip(parts, records, strict=True) if c.kind in ORACLES]
    return EntryState(
        components=tuple(c.name for c in parts),
        laws=_laws([r.laws if r else None for r in records]),
        oracle=bool(formulas) and all(r is not None and bool(r.oracles) for r in formulas),
        study=study,
        verdict=verdict,
        notes=notes,
    )


def _laws(each: list[str | None]) -> str | None:
    lawful = [laws for laws in each if laws != "none"]
    if "failed" in lawful:
        return "failed"
    if not lawful or None in lawful:
        return None
    return "declared" if "declared" in lawful else "passed"


def _studied(studies: dict[str, type[Any]]) -> tuple[str | None, str | None, tuple[str, ...]]:
    names = sorted(studies)
    found = {name: verdict_of(name) for name in names}
    decided = [name for name in names if found[name] is not None]
    study = (decided or names or [None])[0]
    row = found[study] if study else None
    if study is None or row is None:
        return study, None, ()
    return study, row["verdict"], notes_on(studies[study], row)
