"""One paper's row, and the files they are read from: one JSON file per family under `entries/`."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from homeostat.core.errors import BadInput, UnknownName

_SUMMARY = 600
"""Longest summary, in characters."""


@dataclass(frozen=True)
class Entry:
    """One paper.

    Args:
        id: short name that components, studies and the command line use.
        title, year: of the paper.
        system: what the method or the effect is called.
        arxiv: arXiv id without version, "" where there is none.
        family: group of related papers; the name of the file the row lives in.
        kind: "method", "controller", "metric", "phenomenon", "theory", "curve", "framework", "application", "survey",
            "benchmark" or "position".
        claim: what the paper says it shows. A report of the paper, not of anything measured here.
        mechanism: how it works, in words and plain-text formulas.
        to_verify: details of the row that still have to be checked against the paper, "" when none is known.
        study_idea: how the claim could be tried in miniature.
        code: address of the authors' reference code, "" where none is known.
    """

    id: str
    title: str
    system: str
    year: int
    arxiv: str
    family: str
    kind: str
    claim: str
    mechanism: str
    to_verify: str
    study_idea: str
    code: str

    @property
    def summary(self) -> str:
        """The first sentences of the mechanism, at most 600 characters."""
        return shorten(self.mechanism, _SUMMARY)

    def to_json(self) -> dict[str, Any]:
        """Every field by name, and the summary."""
        return {**dataclasses.asdict(self), "summary": self.summary}


def shorten(text: str, limit: int) -> str:
    """The longest run of whole sentences (else clauses, else words) of `text` within `limit` characters.

    A cut that does not end at a sentence is marked with "...".
    """
    if len(text) <= limit:
        return text
    for boundary, ending in ((r"(?<=\.)\s+(?=[A-Z(])", ""), (r";\s", " ..."), (r"\s+", " ...")):
        room = limit - len(ending)
        ends = [m.start() for m in re.finditer(boundary, text) if m.start() <= room]
        if ends and ends[-1] >= limit // 2:
            return text[: ends[-1]] + ending
    return text[: limit - 4] + " ..."


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Every paper of the catalogue, sorted by id."""
    rows: dict[str, Entry] = {}
    for source in files("homeostat.catalogue").joinpath("entries").iterdir():
        if not source.name.endswith(".json"):
            continue
        family = source.name.removesuffix(".json")
        for row in json.loads(source.read_text(encoding="utf-8")):
            made = Entry(family=family, **row)
            if made.id in rows:
                raise BadInput(f"catalogue entry {made.id!r} is in both {rows[made.id].family} and {family}")
            rows[made.id] = made
    return tuple(rows[key] for key in sorted(rows))


def entry(id: str) -> Entry:
    """The paper with that id.

    Raises:
        UnknownName: there is none; the nearest ids are suggested.
    """
    by_id = {e.id: e for e in entries()}
    if id not in by_id:
        raise UnknownName("catalogue entry", id, by_id)
    return by_id[id]


def families() -> dict[str, int]:
    """Family -> number of papers in it, sorted by name."""
    counts: dict[str, int] = {}
    for e in entries():
        counts[e.family] = counts.get(e.family, 0) + 1
    return dict(sorted(counts.items()))
