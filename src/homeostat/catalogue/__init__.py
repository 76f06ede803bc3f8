"""The catalogue of papers: entries, search, and a state derived from the code."""

from homeostat.catalogue.entries import Entry, entries, entry, families
from homeostat.catalogue.evidence import Evidence, evidence_of
from homeostat.catalogue.lookup import search
from homeostat.catalogue.status import EntryState, notes_on, state, to_json, unknown_entries, verdict_of

__all__ = [
    "Entry",
    "EntryState",
    "Evidence",
    "entries",
    "entry",
    "evidence_of",
    "families",
    "notes_on",
    "search",
    "state",
    "to_json",
    "unknown_entries",
    "verdict_of",
]
