"""Citations. The papers are read from the catalogue's files, so that each is stated once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from homeostat.core.errors import BadInput, UnknownName

_FOLDER = files("homeostat").joinpath("catalogue")
"""Only data files are read here; the package `catalogue` is not imported. Their texts enter no digest of code."""


@dataclass(frozen=True)
class Cite:
    """The paper behind a component, and the part of it that is meant.

    A paper of the catalogue is cited by its id, `Cite.of("adaptive-rr")`. Others are stated in full.

    Args:
        authors: "A, B and C", or "A et al.".
        year: of the version that is cited.
        title: in full.
        arxiv: arXiv id without version, "" if there is none.
        where: section or equation; for a paper without a row also where it was published.
        id: of its row in the catalogue, "" if it has none.

    >>> str(Cite.of("adaptive-rr", "section 5"))
    'Ma et al. (2023). Revisiting Plasticity in ... Stages, arXiv:2310.07418, section 5'
    """

    authors: str
    year: int
    title: str
    arxiv: str = ""
    where: str = ""
    id: str = ""

    @classmethod
    def of(cls, id: str, where: str = "") -> Cite:
        """The paper with that id in the catalogue, or in `references.json` beside it.

        Args:
            where: section or equation.

        Raises:
            UnknownName: there is no such paper; the nearest ids are suggested.
        """
        known = {**rows(), **references()}
        if id not in known:
            raise UnknownName("paper", id, known)
        row = known[id]
        places = [text for text in (row.get("published", ""), where) if text]
        listed = id if id in rows() else ""
        return cls(row.get("authors", ""), row["year"], row["title"], row["arxiv"], ", ".join(places), listed)

    def __str__(self) -> str:
        ident = f", arXiv:{self.arxiv}" if self.arxiv else ""
        where = f", {self.where}" if self.where else ""
        return f"{self.authors} ({self.year}). {self.title}{ident}{where}"


@cache
def rows() -> Mapping[str, Mapping[str, Any]]:
    """Id -> row of every paper of the catalogue, sorted by id, with the family that its file is named after.

    Raises:
        BadInput: two rows have one id.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for source in _FOLDER.joinpath("entries").iterdir():
        if source.name.endswith(".json"):
            for row in json.loads(source.read_text("utf-8")):
                if row["id"] in found:
                    raise BadInput(f"the catalogue has two entries {row['id']!r}; the second is in {source.name}")
                found[row["id"]] = MappingProxyType({**row, "family": source.name.removesuffix(".json")})
    return MappingProxyType(dict(sorted(found.items())))


@cache
def references() -> Mapping[str, Mapping[str, Any]]:
    """Id -> row of every paper that several components cite and that has no entry in the catalogue."""
    return MappingProxyType(json.loads(_FOLDER.joinpath("references.json").read_text("utf-8")))
