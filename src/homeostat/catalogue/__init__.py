"""The papers as data, their state derived from the code, and search over them."""

from homeostat.catalogue.evidence import Evidence, evidence_of
from homeostat.catalogue.lookup import search
from homeostat.catalogue.rows import Entry, entries, entry, families
from homeostat.catalogue.standing import EntryState, state, to_json, unknown_entries, verdict_of

__all__ = [
    "Entry",
    "EntryState",
    "Evidence",
    "entries",
    "entry",
    "evidence_of",
    "families",
    "search",
    "state",
    "to_json",
    "unknown_entries",
    "verdict_of",
]
