"""The feed: valid Atom, kept when it is brought up to date, and no foreign file is overwritten."""

import dataclasses
import xml.etree.ElementTree as ET

import pytest

from homeostat.catalogue import CatalogueEvent, entries, entry, events, update_feed
from homeostat.core.errors import BadInput

NAME = "{http://www.w3.org/2005/Atom}"
PAPER = entry("continual-backprop")


def titles(path):
    return [row.findtext(f"{NAME}title") for row in ET.parse(path).getroot().findall(f"{NAME}entry")]


def test_feed_has_what_atom_demands_and_the_newest_first(tmp_path):
    path = tmp_path / "papers.xml"
    assert update_feed(path, events()) == len(events())
    feed = ET.parse(path).getroot()
    rows = feed.findall(f"{NAME}entry")
    assert len(rows) >= len(entries())
    for element in (feed, *rows):
        assert all(element.findtext(f"{NAME}{name}") for name in ("id", "title", "updated"))
    assert feed.findtext(f"{NAME}author/{NAME}name")
    dates = [row.findtext(f"{NAME}updated") for row in rows]
    assert dates == sorted(dates, reverse=True) and feed.findtext(f"{NAME}updated") == dates[0]
    assert len({row.findtext(f"{NAME}id") for row in rows}) == len(rows)
    before = path.read_bytes()
    assert update_feed(path, events()) == 0
    assert path.read_bytes() == before


def test_only_a_changed_verdict_is_news(tmp_path):
    path = tmp_path / "papers.xml"
    verdict = CatalogueEvent("2026-11-01", "verdict", PAPER, "holds", "continual-backprop")
    assert update_feed(path, [verdict]) == 1
    again = dataclasses.replace(verdict, date="2026-11-02")
    assert update_feed(path, [again]) == 0, "judged anew, with the same result"
    changed = dataclasses.replace(verdict, date="2026-11-03", text="does not hold")
    assert update_feed(path, [changed]) == 1
    assert titles(path) == [f"{PAPER.system}: does not hold", f"{PAPER.system}: holds"]


def test_other_files_are_not_overwritten(tmp_path):
    path = tmp_path / "notes.xml"
    for text in ("notes", '<feed xmlns="http://www.w3.org/2005/Atom"><id>mine</id></feed>'):
        path.write_text(text)
        with pytest.raises(BadInput, match="name another file"):
            update_feed(path, events())
        assert path.read_text() == text


def test_events_are_dated_and_restricted():
    found = events()
    assert {event.what for event in found} == {"entry", "verdict"}
    assert [event.date for event in found] == sorted((event.date for event in found), reverse=True)
    assert events("2999-01-01") == []
    day = found[0].date
    assert {event.date for event in events(day)} == {day}
    with pytest.raises(BadInput, match="write it like"):
        events("yesterday")
