"""Drafts of catalogue entries: a paper is placed among its nearest entries, and what they share is suggested."""

from __future__ import annotations

import datetime
import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from homeostat.catalogue import Entry, entries
from homeostat.catalogue.incoming import IncomingPaper
from homeostat.core.errors import BadInput
from homeostat.find.neighbours import neighbours

_KINDS = (("survey", "survey"), ("review of", "survey"), ("benchmark", "benchmark"), ("position:", "position"))
"""Words of a title that tell the kind of a paper."""

_SMALL = frozenset(("a", "an", "the", "of", "in", "on", "for", "and", "to", "with", "via", "by", "from", "is", "are"))


@dataclass(frozen=True)
class DraftedEntry:
    """A drafted entry.

    Args:
        row: its fields as they are stored, those that a person has to write empty.
        family: name of the file that it belongs into.
        near: the nearest entries with their likeness, nearest first.
    """

    row: dict[str, Any]
    family: str
    near: tuple[tuple[Entry, float], ...]

    def to_json(self) -> dict[str, Any]:
        """The row, the family, and id, title and likeness of the nearest entries."""
        near = [{"id": e.id, "title": e.title, "likeness": like} for e, like in self.near]
        return {"entry": self.row, "family": self.family, "near": near}


def draft(paper: IncomingPaper, taken: Collection[str] = ()) -> DraftedEntry:
    """Draft the entry of a paper.

    Family, kind and fit are those of the nearest entries, weighed by their likeness. Claim, mechanism and study idea
    are left empty: they are written in one's own words, and the abstract is not copied.

    Args:
        taken: ids that may not be used, besides those of the catalogue.

    Raises:
        BadInput: the catalogue has the paper already.
    """
    for known in entries():
        same = known.arxiv == paper.arxiv if known.arxiv and paper.arxiv else _bare(known.title) == _bare(paper.title)
        if same:
            raise BadInput(f"the catalogue has this paper already: {known.id!r} ({known.title})")
    near = neighbours(f"{paper.title} {paper.title} {paper.abstract}")
    family = _vote([(e.family, like) for e, like in near]) or "other"
    told = next((kind for words, kind in _KINDS if words in paper.title.lower()), "")
    system = _system(paper.title)
    row = {
        "id": _free(_slug(system), {e.id for e in entries()} | set(taken)),
        "title": paper.title,
        "system": system,
        "authors": paper.authors,
        "year": paper.year or datetime.date.today().year,
        "arxiv": paper.arxiv,
        "published": paper.published,
        "kind": told or _vote([(e.kind, like) for e, like in near]) or "method",
        "fit": int(_vote([(str(e.fit), like) for e, like in near if e.fit]) or 3),
        "added": datetime.date.today().isoformat(),
        "claim": "",
        "mechanism": "",
        "to_verify": "family, kind and fit are those of the nearest entries",
        "study_idea": "",
        "code": "",
    }
    return DraftedEntry(row, family, tuple(near))


def _vote(votes: list[tuple[str, float]]) -> str:
    """The choice with the largest sum of weights, "" if there are none."""
    sums: dict[str, float] = defaultdict(float)
    for choice, weight in votes:
        sums[choice] += weight
    return max(sums, key=sums.__getitem__) if sums else ""


def _system(title: str) -> str:
    """What comes before the colon of a title if that is short, else its first four words that matter."""
    head, colon, _ = title.partition(":")
    if colon and len(head.split()) <= 4:
        return head.strip()
    words = [word for word in re.findall(r"[\w-]+", title) if word.lower() not in _SMALL]
    return " ".join(words[:4])


def _slug(text: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", text.lower())) or "paper"


def _free(id: str, taken: Collection[str]) -> str:
    return id if id not in taken else next(other for n in range(2, 10_000) if (other := f"{id}-{n}") not in taken)


def _bare(title: str) -> str:
    return "".join(re.findall(r"\w", title.lower()))
