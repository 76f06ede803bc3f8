"""What is new in the catalogue: entries by the date when they were added, verdicts by that of their judgement."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

from homeostat.catalogue.entries import Entry, entries
from homeostat.catalogue.status import EntryState, state, verdict_of
from homeostat.core.errors import BadInput


@dataclass(frozen=True)
class CatalogueEvent:
    """An entry that was added, or a verdict that was given.

    Args:
        date: ISO date.
        what: "entry" or "verdict".
        entry: the paper.
        text: the claim, or the verdict.
        study: id of the study that gave the verdict, "" for an entry.
    """

    date: str
    what: str
    entry: Entry
    text: str
    study: str = ""


def events(since: str = "", chosen: Iterable[Entry] | None = None) -> list[CatalogueEvent]:
    """Events on that date or later, newest first.

    Args:
        since: ISO date; "" for all.
        chosen: entries to look at; all by default.

    Raises:
        BadInput: the date is none.
    """
    if since:
        check_date(since)
    found = [event for e in (entries() if chosen is None else chosen) for event in _events(e, state(e))]
    return sorted((e for e in found if e.date >= since), key=lambda e: (e.date, e.what, e.entry.id), reverse=True)


def check_date(text: str) -> None:
    """Refuse what is no ISO date."""
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{text!r} is not a date: write it like 2026-11-29") from None


def _events(entry: Entry, found: EntryState) -> list[CatalogueEvent]:
    made = [CatalogueEvent(entry.added, "entry", entry, entry.claim)] if entry.added else []
    judged = verdict_of(found.study) if found.study else None
    if found.study and judged and judged.get("date"):
        made.append(CatalogueEvent(judged["date"], "verdict", entry, judged["verdict"], found.study))
    return made
