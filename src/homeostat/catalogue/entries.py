"""Entries of the catalogue. They are stored in one JSON file per family under `entries/`."""

from __future__ import annotations

import dataclasses
import functools
import re
from dataclasses import dataclass
from typing import Any

from homeostat.core.cite import rows
from homeostat.core.errors import UnknownName

_SUMMARY = 600
"""Maximum length of a summary, in characters."""


@dataclass(frozen=True)
class Entry:
    """One paper.

    Args:
        id: short name that components, studies and the command line use.
        title, year: of the paper; the year is that of the arXiv version if there is one.
        system: what the method or the effect is called.
        arxiv: arXiv id without version, "" if there is none.
        family: group of related papers; the name of the file that holds the entry.
        kind: "method", "controller", "metric", "phenomenon", "theory", "curve", "framework", "application", "survey",
            "benchmark" or "position".
        claim: what the paper reports; not something measured here.
        mechanism: how it works, in words and plain-text formulas.
        to_verify: details that have not been checked against the paper, "" if there are none.
        study_idea: how the claim could be tested in miniature.
        code: address of the authors' reference code, "" if unknown.
        authors: of the paper, "" where no component cites it.
        published: journal or conference, "" if not recorded.
        fit: how well its idea can be built and tested here in miniature, by our judgement: 1 (hardly) to 5 (well); 0 if
            nobody judged.
        added: ISO date when the entry was added, "" if not recorded.
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
    authors: str = ""
    published: str = ""
    fit: int = 0
    added: str = ""

    @property
    def summary(self) -> str:
        """The first sentences of the mechanism, at most 600 characters."""
        return shorten(self.mechanism, _SUMMARY)

    def to_json(self) -> dict[str, Any]:
        """Every field by name, and the summary."""
        return {**dataclasses.asdict(self), "summary": self.summary}


def shorten(text: str, limit: int) -> str:
    """The first whole sentences (else clauses, else words) of `text` that fit in `limit` characters.

    Text that does not end with a sentence ends with "...".
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
    return tuple(Entry(**row) for row in rows().values())


def entry(id: str) -> Entry:
    """The paper with that id.

    Raises:
        UnknownName: there is no such paper; the nearest ids are suggested.
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
