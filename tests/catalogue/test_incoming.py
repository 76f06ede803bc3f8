"""Papers are read from BibTeX, arXiv's Atom and pasted text; what cannot be read is refused with a reason."""

import pytest

from homeostat.catalogue import IncomingPaper, parse_papers
from homeostat.core.errors import BadInput

BIBTEX = r"""
% exported
@comment{none}
@inproceedings{key2026,
  title     = {The {Dormant} Neuron, {Revisited}},
  author    = {M{\"u}ller, Eva and Roe, Jane},
  booktitle = "Proceedings of Nothing",
  year      = 2026,
  eprint    = {2611.01234v2},
  abstract  = {Units fall
     silent.}
}
@article{two, title={Second}, journal={arXiv preprint arXiv:2601.00001}, author={A A and B B and others}, year={2026}}
"""

ATOM = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom">
 <entry>
  <id>http://arxiv.org/abs/2611.04321v1</id>
  <published>2026-11-20T10:00:00Z</published>
  <title>Keeping networks
    plastic</title>
  <summary> We keep them plastic. </summary>
  <author><name>Ann One</name></author><author><name>Bob Two</name></author><author><name>Cy Three</name></author>
 </entry>
</feed>
"""


def test_bibtex_with_braces_quotes_accents_and_a_comment():
    first, second = parse_papers(BIBTEX)
    assert first == IncomingPaper(
        title="The Dormant Neuron, Revisited",
        abstract="Units fall silent.",
        authors="Eva Muller and Jane Roe",
        year=2026,
        arxiv="2611.01234",
        published="Proceedings of Nothing",
    )
    assert (second.title, second.arxiv, second.authors, second.published) == ("Second", "2601.00001", "A et al.", "")


def test_atom_of_arxiv():
    (paper,) = parse_papers(ATOM)
    assert paper == IncomingPaper(
        title="Keeping networks plastic",
        abstract="We keep them plastic.",
        authors="Ann One, Bob Two and Cy Three",
        year=2026,
        arxiv="2611.04321",
    )


def test_pasted_title_and_abstract():
    (paper,) = parse_papers("Title: On silence\n\nAbstract. Units fall\nsilent (arXiv:2611.01234).\n")
    assert (paper.title, paper.abstract) == ("On silence", "Units fall silent (arXiv:2611.01234).")
    assert paper.arxiv == "2611.01234"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("  \n", "nothing to read"),
        ("@article{key, title={open", "a } is missing"),
        ("@article{key, year={2026}}", "no title"),
        ("@comment{only}", "no entry of a paper"),
        ("<feed", "not a readable Atom file"),
        ('<feed xmlns="http://www.w3.org/2005/Atom"/>', "no entries"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><feed/>', "defines entities"),
    ],
)
def test_what_cannot_be_read_is_refused(text, said):
    with pytest.raises(BadInput, match=said):
        parse_papers(text)
