"""A new paper is placed among its nearest entries; what is known already is refused."""

import pytest

from homeostat.catalogue import IncomingPaper, entries, entry
from homeostat.core.errors import BadInput
from homeostat.find.drafting import draft
from homeostat.find.neighbours import neighbours, text_of

PAPER = IncomingPaper(
    title="FreshUnits: Resetting dormant neurons keeps deep reinforcement learning plastic",
    abstract="Units of value networks become dormant at high replay ratios. Resetting them preserves plasticity.",
    authors="Ann One",
    year=2026,
    arxiv="2611.09999",
)


def test_an_entry_is_nearest_to_itself_and_left_out_on_demand():
    paper = entry("continual-backprop")
    (first, like), *_ = neighbours(text_of(paper))
    assert first == paper and like > 0.99
    others = neighbours(text_of(paper), limit=3, without=paper.id)
    assert paper not in [e for e, _ in others] and len(others) == 3
    assert "plasticity" in [e.family for e, _ in others]


def test_draft_names_family_kind_and_neighbours_and_copies_no_abstract():
    made = draft(PAPER)
    row = made.row
    assert (row["id"], row["system"], row["arxiv"], row["year"]) == ("freshunits", "FreshUnits", "2611.09999", 2026)
    assert made.family == "plasticity"
    assert row["kind"] in {e.kind for e in entries()} and 1 <= row["fit"] <= 5
    assert row["claim"] == row["mechanism"] == row["study_idea"] == ""
    assert "high replay ratios" not in str(row)
    likes = [like for _, like in made.near]
    assert likes == sorted(likes, reverse=True) and likes[-1] > 0


def test_ids_are_free():
    assert draft(PAPER, taken=["freshunits"]).row["id"] == "freshunits-2"
    taken = entries()[0]
    assert draft(IncomingPaper(f"{taken.id}: something new", "")).row["id"] == f"{taken.id}-2"


@pytest.mark.parametrize("field", ["arxiv", "title"])
def test_a_known_paper_is_refused(field):
    known = entry("continual-backprop")
    again = {"title": "Other words", "abstract": "", field: getattr(known, field)}
    with pytest.raises(BadInput, match="already: 'continual-backprop'"):
        draft(IncomingPaper(**again))
