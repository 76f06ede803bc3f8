"""Search by symptom: conditions, treatments and papers, ranked by the words in which people describe a problem."""

from homeostat.find.documents import KINDS, Document, load_documents
from homeostat.find.ranking import Match, SymptomIndex, find, unknown_words

__all__ = ["KINDS", "Document", "Match", "SymptomIndex", "find", "load_documents", "unknown_words"]
