"""Full-text search over the entries: TF-IDF with field weights, in plain Python (284 short texts need no index)."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter

from homeostat.catalogue.entries import Entry, entries
from homeostat.core.errors import BadInput

_WEIGHTS = {
    "id": 4.0,
    "title": 4.0,
    "system": 3.0,
    "arxiv": 4.0,
    "family": 2.0,
    "claim": 1.5,
    "mechanism": 1.0,
    "study_idea": 0.5,
}
_ENDINGS = (("isation", "ization"), ("ising", "izing"), ("ised", "ized"), ("ise", "ize"), ("our", "or"))


def search(words: str, limit: int = 10) -> list[tuple[Entry, float]]:
    """Entries that match, best first, with their scores (positive; comparable within one search only).

    A word of the query also matches longer words that begin with it, at half the weight: "plastic" finds "plasticity".

    Args:
        words: the query.
        limit: maximum number of entries.

    Raises:
        BadInput: the query has no words, or the limit is below 1.
    """
    query = tokens(words)
    if not query:
        raise BadInput("the query is empty: give at least one word, for example `dormant units`")
    if limit < 1:
        raise BadInput(f"limit must be at least 1, got {limit}")
    texts, rarity = _index()
    asked = [(word, [w for w in rarity if len(word) >= 4 and w != word and w.startswith(word)]) for word in query]
    scored = [(e, sum(_score(word, longer, texts[e.id], rarity) for word, longer in asked)) for e in entries()]
    hits = [(e, score) for e, score in scored if score > 0]
    return sorted(hits, key=lambda hit: (-hit[1], hit[0].id))[:limit]


def tokens(text: str) -> list[str]:
    """Lower-case words and numbers, without plural "s" and with American spelling."""
    return [_stem(word) for word in re.findall(r"[a-z0-9]+(?:\.[0-9]+)?", text.lower())]


def _stem(word: str) -> str:
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for british, american in _ENDINGS:
        if len(word) > len(british) + 2 and word.endswith(british):
            return word[: -len(british)] + american
    return word


def _score(word: str, longer: list[str], text: Counter[str], rarity: dict[str, float]) -> float:
    exact = math.log1p(text[word]) * rarity.get(word, 0.0)
    return exact + 0.5 * max((math.log1p(text[w]) * rarity[w] for w in longer), default=0.0)


@functools.cache
def _index() -> tuple[dict[str, Counter[str]], dict[str, float]]:
    """Weighted word counts per entry, and the inverse document frequency of every word."""
    texts: dict[str, Counter[str]] = {}
    for e in entries():
        counts: Counter[str] = Counter()
        for field, weight in _WEIGHTS.items():
            for word in tokens(getattr(e, field)):
                counts[word] += weight  # type: ignore[assignment]
        texts[e.id] = counts
    seen = Counter(word for counts in texts.values() for word in counts)
    return texts, {word: math.log(1 + len(texts) / n) for word, n in seen.items()}
