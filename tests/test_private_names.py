"""Private names stay in the module that defines them; those of torch are in `hooks/torch_internals.py`."""

import ast
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).resolve().parents[1] / "src" / "homeostat"
INTERNALS = "shell/hooks/torch_internals.py"
ALLOWED = {"_asdict", "_replace", "_fields", "_run_module_as_main", "_exit"}
"""Methods of named tuples, what `python -m` calls, and how a forked child ends: there are no public names for them."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name.strip("_") != ""


def defined_in(tree: ast.Module) -> set[str]:
    """Functions, classes, variables, and attributes that are set on `self` or `cls`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and on_itself(node):
            found.add(node.attr)
    return found


def on_itself(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def foreign_names(text: str) -> Iterator[tuple[int, str]]:
    """Line and name of every private name that is imported, or read from an object or module, and not defined here."""
    tree = ast.parse(text)
    here = defined_in(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            paths = [f"{node.module or ''}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and not on_itself(node) and node.attr not in ALLOWED | here:
            paths = [node.attr]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            name = node.args[1]
            paths = [name.value] if isinstance(name, ast.Constant) and name.value not in here else []
        else:
            continue
        yield from ((node.lineno, path) for path in paths if any(map(is_private, str(path).split("."))))


def test_the_search_finds_every_way_to_read_a_private_name():
    text = "import torch._dynamo\nfrom torch import _C\ntorch._C.x\nnn.Module()._modules\ngetattr(x, '_base')\n"
    assert [line for line, _ in sorted(foreign_names(text))] == [1, 2, 3, 4, 5]
    own = "class A:\n  def __init__(self): self._x = 1\n  def same(self, other): return other._x, self.__dict__\n"
    assert list(foreign_names(own)) == []


def test_no_module_reads_anothers_private_names():
    names = {
        path.relative_to(SRC).as_posix(): list(foreign_names(path.read_text("utf-8"))) for path in SRC.rglob("*.py")
    }
    assert [name for name, found in names.items() if found] == [INTERNALS], names
