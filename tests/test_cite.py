"""Each paper is stated once: components cite it by its id."""

import ast
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

import homeostat
from homeostat.core.cite import Cite, references, rows
from homeostat.core.closure import closure
from homeostat.core.component import find
from homeostat.core.errors import UnknownName
from homeostat.core.vital import LayerVital
from homeostat.testing.common_laws import cites_a_source

SRC = Path(homeostat.__file__).parent


def in_source() -> list[ast.Call]:
    """Every `Cite(...)` and `Cite.of(...)` of the package."""
    calls = [
        node
        for path in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Cite", "Cite.of")
    ]
    assert len(calls) > 60
    return calls


def test_every_id_in_the_source_is_a_paper_with_authors():
    ids = {ast.literal_eval(call.args[0]) for call in in_source() if ast.unparse(call.func) == "Cite.of"}
    assert [id for id in sorted(ids) if not Cite.of(id).authors] == []
    assert ids >= set(references()), "a reference that nothing cites"


def test_no_paper_is_stated_twice():
    explicit = [ast.unparse(call) for call in in_source() if ast.unparse(call.func) == "Cite"]
    known = [row for row in (*rows().values(), *references().values())]
    stated = Counter(
        row["arxiv"] or row["title"] for row in known for text in explicit if (row["arxiv"] or row["title"]) in text
    )
    assert stated == {}
    assert [text for text, count in Counter(explicit).items() if count > 1] == []
    assert not set(rows()) & set(references())


def test_a_citation_says_where():
    cite = Cite.of("continual-backprop", "equation 1")
    assert str(cite).startswith("Dohare, Hernandez-Garcia, ")
    assert str(cite).endswith("arXiv:2306.13812, Nature 632, 768-774 (2024), equation 1")
    with pytest.raises(UnknownName, match="continual-backprop"):
        Cite.of("continual-backprob")


def test_what_cites_an_entry_serves_it_unless_it_says_otherwise():
    class Base(LayerVital, abstract=True):
        cite = (Cite.of("adaptive-rr"), Cite.of("ppo"))

    class Other(Base, abstract=True):
        cite = Cite.of("granet")
        entries = ()

    class Below(Base, abstract=True):
        pass

    assert (Base.entries, Other.entries, Below.entries) == (("adaptive-rr",), (), ("adaptive-rr",))


def test_an_entry_without_authors_is_named_by_the_law():
    bare = next(id for id, row in rows().items() if not row.get("authors"))
    with pytest.raises(AssertionError, match=f"{bare}: add its `authors`"):
        cites_a_source(SimpleNamespace(name="mine", cite=Cite.of(bare)))  # type: ignore[arg-type]


def test_the_text_of_an_entry_is_in_no_digest():
    files = closure([find("treatment", "continual-backprop").__module__])
    assert SRC / "core" / "cite.py" in files
    assert [path.name for path in files if path.suffix == ".json" and "catalogue" in path.parts] == []
