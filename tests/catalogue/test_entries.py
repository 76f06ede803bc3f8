"""The rows themselves: complete, well formed, findable, and free of what belongs to no public text."""

import json
import re
from collections import Counter
from importlib.resources import files

import pytest

from homeostat.catalogue import entries, entry, families, search
from homeostat.catalogue.entries import shorten
from homeostat.core.errors import BadInput, UnknownName

KINDS = {
    "method",
    "controller",
    "metric",
    "phenomenon",
    "theory",
    "curve",
    "framework",
    "application",
    "survey",
    "benchmark",
    "position",
}


def test_there_are_284_papers_with_unique_ids_and_titles():
    rows = entries()
    assert len(rows) == 284
    assert len({e.id for e in rows}) == 284
    assert len({e.title for e in rows}) == 284
    assert sum(families().values()) == 284


def test_no_row_is_hidden_by_another_of_the_same_id():
    folder = files("homeostat.catalogue").joinpath("entries")
    stored = [row["id"] for f in folder.iterdir() for row in json.loads(f.read_text("utf-8"))]
    assert sorted(stored) == [e.id for e in entries()]


@pytest.mark.parametrize("family", families())
def test_rows_are_complete_and_well_formed(family):
    for e in (e for e in entries() if e.family == family):
        check_row(e)


def check_row(e):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", e.id)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", e.family)
    assert e.kind in KINDS
    assert 1950 <= e.year <= 2030
    assert e.arxiv == "" or re.fullmatch(r"\d{4}\.\d{4,5}", e.arxiv)
    assert e.code == "" or re.fullmatch(r"https://\S+", e.code)
    for text in (e.title, e.system, e.claim, e.mechanism, e.study_idea):
        assert len(text) >= 3
        assert text == text.strip()
    assert len(e.claim) >= 40
    assert len(e.mechanism) >= 80
    assert 0 < len(e.summary) <= 600


def test_arxiv_ids_are_not_shared():
    assert not [a for a, n in Counter(e.arxiv for e in entries() if e.arxiv).items() if n > 1]


def test_texts_hold_no_working_notes():
    everything = json.dumps([e.to_json() for e in entries()])
    assert not re.search(r"\bunsure\b|\bfrom memory\b|\bmy memory\b|\bTODO\b|\brecalled as\b", everything)


def test_unknown_id_suggests_the_nearest():
    with pytest.raises(UnknownName, match="continual-backprop"):
        entry("continual-backprob")


@pytest.mark.parametrize(
    ("words", "id"),
    [
        ("continual backprop", "continual-backprop"),
        ("spectral regularisation", "spectral-regularization"),
        ("spectral regularization", "spectral-regularization"),
        ("central flows", "central-flows"),
        ("2410.24206", "central-flows"),
        ("PI control of entropy", "entropic"),
        ("plasticity-probe", "plasticity-probe"),
        ("modern hopfield network", "modern-hopfield"),
    ],
)
def test_search_puts_the_obvious_paper_first(words, id):
    assert search(words)[0][0].id == id


def test_titles_find_their_own_papers():
    missed = [e.id for e in entries()[::6] if e.id not in [hit.id for hit, _ in search(e.title, limit=3)]]
    assert missed == []


def test_search_is_ordered_limited_and_finds_longer_words():
    hits = search("plasticity", limit=7)
    scores = [score for _, score in hits]
    assert len(hits) == 7
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0
    assert search("hopfi")
    assert search("zzzz") == []


@pytest.mark.parametrize(("words", "limit"), [("", 5), ("?!", 5), ("entropy", 0)])
def test_search_refuses_an_empty_question(words, limit):
    with pytest.raises(BadInput):
        search(words, limit)


def test_shorten_prefers_sentences_then_clauses_then_words():
    assert shorten("Short one.", 600) == "Short one."
    assert shorten("First sentence here. Second one is too long to be kept.", 30) == "First sentence here."
    assert shorten("A first clause of it; a second that does not fit any more", 30) == "A first clause of it ..."
    assert shorten("only words and words and words in here", 20) == "only words and ..."
    assert shorten("x" * 50, 20) == "x" * 16 + " ..."
