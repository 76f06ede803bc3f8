"""The state of each paper, derived from the code; nothing is set by hand.

components: registered components whose `entries` name the paper; study: the registered study that does; verdict: the
file the study harness wrote; laws and oracle: see `evidence`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from homeostat.catalogue.entries import Entry, entries
from homeostat.catalogue.evidence import evidence_of
from homeostat.core.component import components, kinds
from homeostat.core.errors import BadInput

ORACLES = ("controller", "curve", "objective", "treatment", "vital")
"""Kinds that implement a formula of the paper and need an oracle. Streams and conditions do not."""

VERDICTS = ("holds", "does not hold", "inconclusive")


@dataclass(frozen=True)
class EntryState:
    """State of one paper.

    Args:
        components: sorted names of the components that implement it; empty if there are none.
        laws: result of all its components with laws: "failed" if one failed, None if one is unchecked (or there is
            none), "declared" if one declares an exception, else "passed".
        oracle: whether all of its components that implement a formula are tested against an independent restatement.
        study: id of its study, None if there is none. If there are several, one with a verdict.
        verdict: of that study: "holds", "does not hold", "inconclusive", or None before its paper-budget run.
    """

    components: tuple[str, ...] = ()
    laws: str | None = None
    oracle: bool = False
    study: str | None = None
    verdict: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "components": list(self.components),
            "laws": self.laws,
            "oracle": self.oracle,
            "study": self.study,
            "verdict": self.verdict,
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
    if found.get("verdict") not in VERDICTS:
        raise BadInput(f"verdict file of {study!r}: its verdict is {found.get('verdict')!r}, not one of {VERDICTS}")
    return found


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
    study, verdict = _studied(sorted(c.name for c in serving if c.kind == "study"))
    records = [evidence_of(c) for c in parts]
    formulas = [r for c, r in zip(parts, records, strict=True) if c.kind in ORACLES]
    return EntryState(
        components=tuple(c.name for c in parts),
        laws=_laws([r.laws if r else None for r in records]),
        oracle=bool(formulas) and all(r is not None and bool(r.oracles) for r in formulas),
        study=study,
        verdict=verdict,
    )


def _laws(each: list[str | None]) -> str | None:
    lawful = [laws for laws in each if laws != "none"]
    if "failed" in lawful:
        return "failed"
    if not lawful or None in lawful:
        return None
    return "declared" if "declared" in lawful else "passed"


def _studied(names: list[str]) -> tuple[str | None, str | None]:
    found = {name: verdict_of(name) for name in names}
    decided = [name for name in names if found[name] is not None]
    study = (decided or names or [None])[0]
    row = found[study] if study else None
    return study, row["verdict"] if row else None
