"""The catalogue of papers: entries, search, and a state derived from the code."""

from homeostat.catalogue.entries import Entry, entries, entry, families
from homeostat.catalogue.evidence import Evidence, evidence_of
from homeostat.catalogue.feed import update_feed
from homeostat.catalogue.incoming import IncomingPaper, parse_papers
from homeostat.catalogue.lookup import search
from homeostat.catalogue.news import CatalogueEvent, events
from homeostat.catalogue.status import EntryState, notes_on, state, to_json, unknown_entries, verdict_of

__all__ = [
    "CatalogueEvent",
    "Entry",
    "EntryState",
    "Evidence",
    "IncomingPaper",
    "entries",
    "entry",
    "events",
    "evidence_of",
    "families",
    "notes_on",
    "parse_papers",
    "search",
    "state",
    "to_json",
    "unknown_entries",
    "update_feed",
    "verdict_of",
]
