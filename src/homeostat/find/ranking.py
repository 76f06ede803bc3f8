"""Ranking by TF-IDF: the nearest phrases of a document, all of its phrases together, and what is written about it.

    score = (nearest + SUM_WEIGHT * (centroid + CHARS * centroid of characters) + TEXT * text) / their largest sum

Every part is a cosine. `nearest` adds those of the five nearest phrases with falling weights, the centroid is that of
all phrases. Features are stems, pairs of neighbouring stems, and the meanings of `words`; parts of words (3 or 4
characters) help with words that were misspelt. Papers have no phrases, only texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from homeostat.core.errors import BadInput
from homeostat.find.documents import KINDS, Document, load_documents
from homeostat.find.words import features, meanings, stems, text_features

NEAREST = (1.0, 0.7, 0.5, 0.3, 0.2)
"""Weights of the nearest phrases, falling."""

SUM_WEIGHT, CHARS, TEXT = 2.0, 0.3, 1.0
"""Weights of the centroid, of its characters relative to it, and of the texts."""

LETTERS = 0.2
"""Share of the characters in the likeness of two phrases."""

PAPERS = 0.75
"""Scale of the scores of papers, which rest on texts alone."""

FLOOR = 0.05
"""Smallest score of a match; below it a few common words are shared."""


@dataclass(frozen=True)
class Match:
    """One result.

    Args:
        kind, name: of what was found.
        score: likeness of the symptom, 0 to 1; comparable within one search only.
        why: one sentence: what the match rests on, and what was found.
        verdict: what studies say about it.
    """

    kind: str
    name: str
    score: float
    why: str
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Every field by name."""
        return {
            "kind": self.kind,
            "name": self.name,
            "score": self.score,
            "why": self.why,
            "verdict": self.verdict,
        }


class SymptomIndex:
    """The index over a set of documents. Needs scikit-learn (the extra `find`).

    Args:
        found: the documents.
    """

    def __init__(self, found: Sequence[Document]) -> None:
        from scipy.sparse import csr_matrix
        from sklearn.feature_extraction import text as sklearn_text

        vectorizer: Any = sklearn_text.TfidfVectorizer
        self._documents = tuple(found)
        said = [(at, phrase) for at, d in enumerate(found) for phrase in d.phrases]
        self._phrases = [phrase for _, phrase in said]
        self._owner = np.array([at for at, _ in said], dtype=np.intp)
        self._words = vectorizer(analyzer=features, sublinear_tf=True)
        self._letters = vectorizer(analyzer="char_wb", ngram_range=(3, 4), sublinear_tf=True, preprocessor=_plain)
        self._texts = vectorizer(analyzer=text_features, sublinear_tf=True)
        members = csr_matrix((np.ones(len(said)), (self._owner, np.arange(len(said)))), (len(found), len(said)))
        self._by_words = self._words.fit_transform(self._phrases)
        self._by_letters = self._letters.fit_transform(self._phrases)
        self._by_text = self._texts.fit_transform([f"{d.title} {d.title} {d.text}" for d in found])
        self._word_centroids = _unit(members @ self._by_words)
        self._letter_centroids = _unit(members @ self._by_letters)

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Stems that occur in a phrase or a text."""
        known = (*self._words.vocabulary_, *self._texts.vocabulary_)
        return frozenset(word for word in known if " " not in word and "=" not in word)

    def search(self, symptom: str, kind: str = "", limit: int = 10) -> list[Match]:
        """The best matches, best first; none if no word of the symptom is known.

        Args:
            symptom: a sentence in the user's words.
            kind: only documents of this kind; "" for all.
            limit: largest number of results.

        Raises:
            BadInput: the symptom has no words, the kind is unknown, or the limit is below 1.
        """
        if kind not in ("", *KINDS):
            raise BadInput(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
        if limit < 1:
            raise BadInput(f"the limit must be at least 1, got {limit}")
        if not stems(symptom):
            raise BadInput('describe the symptom in a few words, for example "loss is nan after a few hundred steps"')
        like, scores = self._likeness(symptom)
        order = [at for at in np.argsort(-scores, kind="stable") if scores[at] >= FLOOR]
        chosen = [at for at in order if kind in ("", self._documents[at].kind)][:limit]
        return [self._match(int(at), float(scores[at]), like, symptom) for at in chosen]

    def _likeness(self, symptom: str) -> tuple[np.ndarray, np.ndarray]:
        """Likeness of every phrase, and score of every document."""
        words, letters = self._words.transform([symptom]), self._letters.transform([symptom])
        like = _row((1 - LETTERS) * (words @ self._by_words.T) + LETTERS * (letters @ self._by_letters.T))
        centroid = _row(words @ self._word_centroids.T) + CHARS * _row(letters @ self._letter_centroids.T)
        text = _row(self._texts.transform([symptom]) @ self._by_text.T)
        papers = np.array([d.kind == "paper" for d in self._documents])
        spoken = _nearest(like, self._owner, len(self._documents)) + SUM_WEIGHT * centroid + TEXT * text
        full = sum(NEAREST) + SUM_WEIGHT * (1 + CHARS) + TEXT
        return like, np.where(papers, PAPERS * text, spoken / full)

    def _match(self, at: int, score: float, like: np.ndarray, symptom: str) -> Match:
        document = self._documents[at]
        mine = np.flatnonzero(self._owner == at)
        nearest = self._phrases[int(mine[np.argmax(like[mine])])] if mine.size else ""
        return Match(document.kind, document.name, round(score, 4), _why(document, nearest, symptom), document.verdict)


def find(symptom: str, kind: str = "", limit: int = 10) -> list[Match]:
    """Conditions, treatments and papers that a symptom points to, best first.

    Args, Raises: as `SymptomIndex.search`.
    """
    return _index().search(symptom, kind, limit)


@cache
def _index() -> SymptomIndex:
    return SymptomIndex(load_documents())


def _why(document: Document, nearest: str, symptom: str) -> str:
    """One sentence on what a match rests on and what was found."""
    says = document.says[:1].lower() + document.says[1:] if document.says[1:2].islower() else document.says
    says = says.rstrip(".") + "."
    if document.kind == "paper":
        shared = _shared(symptom, f"{document.title} {document.text}")
        return f"the paper shares {', '.join(shared[:4])}: {says}" if shared else says
    helps = f" (against {', '.join(document.treats[:3])})" if document.treats else ""
    return f'close to "{nearest}"{helps}: {says}' if nearest else f"{document.name}{helps}: {says}"


def _shared(symptom: str, text: str) -> list[str]:
    """Words of the symptom whose stems, or meanings, a text has."""
    known = stems(text)
    meant = set(meanings(known))
    found = [word for word in dict.fromkeys(symptom.split()) if set(stems(word)) & set(known)]
    return [f'"{word.strip(".,;:!?")}"' for word in found] or sorted(set(meanings(stems(symptom))) & meant)


def _nearest(like: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """Weighted sum of the largest values of each owner."""
    found = np.zeros(count)
    order = np.argsort(-like, kind="stable")
    taken = np.zeros(count, dtype=np.intp)
    for at in order[: len(NEAREST) * 60]:
        if like[at] <= 0:
            break
        rank = taken[owner[at]]
        if rank < len(NEAREST):
            found[owner[at]] += NEAREST[rank] * like[at]
            taken[owner[at]] += 1
    return found


def _row(matrix: Any) -> np.ndarray:
    return np.asarray(matrix.todense()).ravel()


def _unit(rows: Any) -> Any:
    from sklearn.preprocessing import normalize

    return normalize(rows)


def _plain(text: str) -> str:
    return " ".join(stems(text))


def unknown_words(symptom: str, known: Iterable[str]) -> list[str]:
    """Words of a symptom whose stems are not in a vocabulary."""
    vocabulary = set(known)
    return [word for word in symptom.split() if (found := stems(word)) and not set(found) & vocabulary]
