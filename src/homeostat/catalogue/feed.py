"""An Atom feed (RFC 4287) of new entries and changed verdicts.

The feed keeps what it holds already. A verdict is added if the feed's newest one of that paper is another.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

from homeostat.catalogue.news import CatalogueEvent
from homeostat.core.atomic_file import whole_file
from homeostat.core.errors import BadInput

ATOM = "http://www.w3.org/2005/Atom"
FEED = "tag:homeostat,2026:catalogue"
"""Id of the feed. Files with another id are not touched."""

ET.register_namespace("", ATOM)


def update_feed(path: Path, found: Iterable[CatalogueEvent]) -> int:
    """Add the events that the feed at `path` lacks, newest first. A missing file is created. Returns how many.

    Raises:
        BadInput: the file is not a feed of the catalogue; it is not changed.
    """
    feed = _read(path) if path.exists() else _empty()
    known = {_text(entry, "id") for entry in _all(feed)}
    newest: dict[str, str] = {}
    for entry in sorted(_all(feed), key=lambda entry: _text(entry, "updated")):
        newest[_paper(_text(entry, "id"))] = _text(entry, "title")
    fresh = [e for e in sorted(found, key=lambda e: (e.date, e.what, e.entry.id)) if _is_new(e, known, newest)]
    rows = [*_all(feed), *(_entry(event) for event in fresh)]
    for entry in _all(feed):
        feed.remove(entry)
    rows.sort(key=lambda entry: _text(entry, "updated"), reverse=True)
    feed.extend(rows)
    if rows:
        updated = feed.find(f"{{{ATOM}}}updated")
        if updated is not None:
            updated.text = _text(rows[0], "updated")
    ET.indent(feed, " ")
    with whole_file(path) as temporary:
        ET.ElementTree(feed).write(temporary, encoding="utf-8", xml_declaration=True)
    return len(fresh)


def _is_new(event: CatalogueEvent, known: set[str], newest: dict[str, str]) -> bool:
    id = _id(event)
    return id not in known and not (event.what == "verdict" and newest.get(_paper(id)) == _title(event))


def _id(event: CatalogueEvent) -> str:
    return f"{FEED}:{event.what}/{event.entry.id}" + (f"/{event.date}" if event.what == "verdict" else "")


def _paper(id: str) -> str:
    """The part of an id that the verdicts of one paper share."""
    return "/".join(id.split("/")[:2])


def _title(event: CatalogueEvent) -> str:
    system = event.entry.system
    return f"New: {system}" if event.what == "entry" else f"{system}: {event.text}"


def _entry(event: CatalogueEvent) -> ET.Element:
    made = ET.Element(f"{{{ATOM}}}entry")
    _add(made, "id", _id(event))
    _add(made, "title", _title(event))
    _add(made, "updated", f"{event.date}T00:00:00Z")
    paper = event.entry
    if paper.arxiv:
        ET.SubElement(made, f"{{{ATOM}}}link", href=f"https://arxiv.org/abs/{paper.arxiv}")
    ET.SubElement(made, f"{{{ATOM}}}category", term=paper.family)
    said = event.text if event.what == "entry" else f"Study {event.study}: {event.text}. The claim: {paper.claim}"
    _add(made, "summary", f"{paper.title} ({paper.year}). {said}")
    return made


def _empty() -> ET.Element:
    feed = ET.Element(f"{{{ATOM}}}feed")
    _add(feed, "id", FEED)
    _add(feed, "title", "Homeostat: new papers and verdicts")
    _add(feed, "updated", "1970-01-01T00:00:00Z")
    _add(ET.SubElement(feed, f"{{{ATOM}}}author"), "name", "Homeostat")
    return feed


def _read(path: Path) -> ET.Element:
    try:
        feed = ET.fromstring(path.read_bytes())
    except ET.ParseError as error:
        raise BadInput(f"{path} is not an Atom feed ({error}); name another file") from None
    if feed.tag != f"{{{ATOM}}}feed" or _text(feed, "id") != FEED:
        raise BadInput(f"{path} is not a feed of the catalogue; name another file, it is not overwritten")
    return feed


def _all(feed: ET.Element) -> list[ET.Element]:
    return feed.findall(f"{{{ATOM}}}entry")


def _text(element: ET.Element, name: str) -> str:
    return element.findtext(f"{{{ATOM}}}{name}") or ""


def _add(parent: ET.Element, name: str, text: str) -> None:
    ET.SubElement(parent, f"{{{ATOM}}}{name}").text = text
