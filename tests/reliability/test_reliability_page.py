"""The page of faults names tests that are there."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text("utf-8")
ROW = re.compile(r"^\| (?!fault|-)(.+?) \| (.+?) \| `(.+?)::(.+?)` \|$", re.MULTILINE)


def test_every_fault_has_a_test():
    rows = ROW.findall(PAGE.partition("## Records")[0])
    assert len(rows) >= 40 and len({fault for fault, *_ in rows}) == len(rows)
    defined = {
        path: {node.name for node in ast.parse((TESTS / path).read_text("utf-8")).body if hasattr(node, "name")}
        for _, _, path, _ in rows
    }
    assert [f"{path}::{name}" for _, _, path, name in rows if name not in defined[path]] == []
