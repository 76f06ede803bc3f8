"""The papers of the catalogue that are nearest to a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from homeostat.catalogue import Entry, entries
from homeostat.find.words import text_features


def text_of(entry: Entry) -> str:
    """The texts of an entry that are compared; title and system count twice."""
    title = f"{entry.title} {entry.system}"
    return f"{title} {title} {entry.claim} {entry.mechanism}"


def neighbours(
    text: str, limit: int = 5, among: Sequence[Entry] | None = None, without: str = ""
) -> list[tuple[Entry, float]]:
    """The nearest entries with their likeness (cosine of the TF-IDF vectors, 0 to 1), nearest first.

    Needs scikit-learn (the extra `find`).

    Args:
        text: of a paper: its title and abstract, or `text_of` an entry.
        limit: largest number of entries.
        among: entries to choose from; all by default.
        without: id of an entry to leave out.
    """
    from sklearn.feature_extraction import text as sklearn_text

    vectorizer: Any = sklearn_text.TfidfVectorizer
    vectorizer = vectorizer(analyzer=text_features, sublinear_tf=True)
    known = [e for e in (entries() if among is None else among) if e.id != without]
    rows = vectorizer.fit_transform([text_of(e) for e in known])
    like = np.asarray((rows @ vectorizer.transform([text]).T).todense()).ravel()
    order = [int(at) for at in np.argsort(-like, kind="stable") if like[at] > 0][:limit]
    return [(known[at], round(float(like[at]), 4)) for at in order]
