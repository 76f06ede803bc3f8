"""Papers to be added: read from BibTeX, from arXiv's Atom feed, or from a pasted title and abstract."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from homeostat.core.errors import BadInput

_ATOM = "{http://www.w3.org/2005/Atom}"
_ARXIV = re.compile(r"(?<!\d)(\d{4}\.\d{4,5})(?!\d)")
_FIELD = re.compile(r"\s*([A-Za-z][\w-]*)\s*=\s*")
_ACCENT = re.compile(r"\\[`'^\"~=.uvHtcdbkr]\s*\{?([A-Za-z])\}?")


@dataclass(frozen=True)
class IncomingPaper:
    """A paper as a source states it.

    Args:
        title: in full.
        abstract: as pasted, "" if the source has none. It is read to place the paper, and is not stored.
        authors: "A, B and C", or "A et al." for more than six.
        year: 0 if the source has none.
        arxiv: arXiv id without version, "" if there is none.
        published: journal or conference, "" if the source names none.
    """

    title: str
    abstract: str
    authors: str = ""
    year: int = 0
    arxiv: str = ""
    published: str = ""


def parse_papers(text: str) -> list[IncomingPaper]:
    """The papers in a text: an Atom feed, BibTeX entries, or a title in the first line and the abstract after it.

    Raises:
        BadInput: there is no paper in it, or an entry has no title.
    """
    start = text.lstrip("\ufeff \t\r\n")
    if not start:
        raise BadInput("there is nothing to read: give BibTeX, an arXiv Atom file, or a title and an abstract")
    if start.startswith("<"):
        return _atom(start)
    return _bibtex(start) if re.match(r"(%.*\n\s*)*@\w+\s*\{", start) else [_pasted(start)]


def _atom(text: str) -> list[IncomingPaper]:
    if "<!ENTITY" in text:
        raise BadInput("the Atom file defines entities, which are not read")
    try:
        root = ET.fromstring(text.encode())
    except ET.ParseError as error:
        raise BadInput(f"this is not a readable Atom file: {error}") from None
    rows = [root] if root.tag == f"{_ATOM}entry" else root.findall(f"{_ATOM}entry")
    if not rows:
        raise BadInput("the Atom file has no entries")
    return [_atom_entry(row) for row in rows]


def _atom_entry(row: ET.Element) -> IncomingPaper:
    def text(name: str) -> str:
        return _spaces(row.findtext(f"{_ATOM}{name}") or "")

    people = [_spaces(a.findtext(f"{_ATOM}name") or "") for a in row.findall(f"{_ATOM}author")]
    year = re.match(r"\d{4}", text("published"))
    return _checked(
        title=text("title"),
        abstract=text("summary"),
        authors=_people(people),
        year=int(year.group()) if year else 0,
        arxiv=_arxiv(text("id")),
        published=_spaces(row.findtext("{http://arxiv.org/schemas/atom}journal_ref") or ""),
    )


def _bibtex(text: str) -> list[IncomingPaper]:
    found = []
    for start in re.finditer(r"@(\w+)\s*\{", text):
        if start.group(1).lower() not in ("comment", "preamble", "string"):
            found.append(_bibtex_entry(_braced(text, start.end() - 1)))
    if not found:
        raise BadInput("the BibTeX has no entry of a paper")
    return found


def _bibtex_entry(body: str) -> IncomingPaper:
    fields = _fields(body.partition(",")[2])
    people = [_person(one) for one in re.split(r"\s+and\s+", fields.get("author", "")) if one]
    ids = (fields.get("eprint", ""), fields.get("journal", ""), fields.get("url", ""), fields.get("volume", ""))
    published = fields.get("journal") or fields.get("booktitle") or ""
    year = re.search(r"\d{4}", fields.get("year", "") or fields.get("date", ""))
    return _checked(
        title=fields.get("title", ""),
        abstract=fields.get("abstract", ""),
        authors=_people(people),
        year=int(year.group()) if year else 0,
        arxiv=next((id for text in ids if (id := _arxiv(text))), ""),
        published="" if "arxiv" in published.lower() else published,
    )


def _fields(text: str) -> dict[str, str]:
    """Name -> value of `name = {value}`, `name = "value"` and `name = value`, names in lower case."""
    found: dict[str, str] = {}
    at = 0
    while match := _FIELD.match(text, at):
        at = match.end()
        if text[at : at + 1] == "{":
            value = _braced(text, at)
            at += len(value) + 2
        elif text[at : at + 1] == '"':
            end = text.find('"', at + 1)
            value = text[at + 1 : end if end >= 0 else len(text)]
            at += len(value) + 2
        else:
            value = text[at:].partition(",")[0].strip()
            at += len(text[at:].partition(",")[0])
        found[match.group(1).lower()] = _plain(value)
        comma = text.find(",", at)
        at = comma + 1 if comma >= 0 else len(text)
    return found


def _braced(text: str, at: int) -> str:
    """What is between the brace at `at` and the one that closes it."""
    depth = 0
    for end in range(at, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0:
            return text[at + 1 : end]
    raise BadInput("the BibTeX ends within braces: a } is missing")


def _pasted(text: str) -> IncomingPaper:
    first, _, rest = text.partition("\n")
    body = re.sub(r"^\s*abstract\s*[:.]?\s*", "", rest, flags=re.IGNORECASE)
    title = re.sub(r"^\s*title\s*:\s*", "", first, flags=re.IGNORECASE)
    return _checked(title=_spaces(title), abstract=_spaces(body), arxiv=_arxiv(text))


def _checked(**fields: str | int) -> IncomingPaper:
    if not fields["title"]:
        raise BadInput("a paper has no title")
    return IncomingPaper(**fields)  # type: ignore[arg-type]


def _arxiv(text: str) -> str:
    match = _ARXIV.search(text)
    return match.group(1) if match else ""


def _person(name: str) -> str:
    """ "Last, First" turned round."""
    last, comma, first = name.partition(",")
    return _spaces(f"{first} {last}") if comma else _spaces(name)


def _people(names: list[str]) -> str:
    named = [name for name in names if name and name != "others"]
    if len(named) > 6 or len(named) < len([name for name in names if name]):
        return f"{named[0].split()[-1]} et al."
    return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)


def _plain(value: str) -> str:
    return _spaces(_ACCENT.sub(r"\1", value).replace("{", "").replace("}", "").replace("\\&", "&"))


def _spaces(text: str) -> str:
    return " ".join(text.split())
