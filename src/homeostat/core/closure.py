"""The modules on which the results of a module can depend, and a digest of their code.

The import closure is read from the source, without running it. Starting from some modules it follows

- every import, at the top of a module or inside a function;
- a name imported from a package (`from homeostat.vitals import sharpness`, `homeostat.attach`) to the module that
  defines it, not to everything in the package;
- a text that names a registered component (`"redo:every=500"`, `vitals="loss"`) to the component's module, because
  components are also looked up by name at run time;
- a text that names a file beside the module (`"thresholds.json"`) to that file.

Imports for type checkers and the packages in `SILENT` are not followed. From a module outside the package, like a test
or a user's study, imports are followed to other modules in its folder and into the package.

The digest is of the code: comments, formatting and the words of docstrings do not change it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

from homeostat.core.component import components, kinds

SILENT = frozenset({"report", "commands", "cli", "__main__", "demo", "catalogue"})
"""Packages that show results and cite sources. No measured number depends on them."""

_OFFERING = frozenset({"core", "record", "diagnosis", "shell", "integrations", "testing"})
"""Packages whose texts name components only as suggestions, like a remedy, or as examples."""

_GROUPS = {"default": ("vital",), "all": ("vital",), "auto": ("treatment", "condition")}
"""Words that `attach` accepts in place of names -> kinds of the components that they stand for."""

_PROSE = frozenset({"changed", "claim", "remarks", "tuning"})
"""Class attributes of a study that are only shown; they may be completed after it has been run."""

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGE = "homeostat"

Edits = Mapping[Path, str]
"""File -> text that replaces its content."""


@dataclass(frozen=True)
class _Module:
    """Facts from the source of a module.

    Args:
        imported: (module, imported name); the name is "" if the module itself is used.
        bound: local name -> (module, name) it was imported from.
        defined: other names of the top level.
        texts: string constants, docstrings aside.
        digest: of the code.
    """

    imported: frozenset[tuple[str, str]]
    bound: Mapping[str, tuple[str, str]]
    defined: frozenset[str]
    texts: frozenset[str]
    digest: str


def closure(
    start: Iterable[str | Path], names: Iterable[str] = (), edits: Edits | None = None, without: Collection[str] = ()
) -> frozenset[Path]:
    """The files on which the results of some modules can depend.

    Args:
        start: modules by name, or files of modules outside the package.
        names: texts that name further components, like `"redo:every=500"`.
        edits: texts that replace files on disk.
        without: packages to leave out, with everything that only they import.

    Raises:
        ImportError: a module to start from has no source.
    """
    edits, named = edits or {}, _components_by_name()
    found: set[Path] = set()
    waiting = [one if isinstance(one, Path) else _file_of_start(one) for one in start]
    waiting += [path for text in names for path in _named(text, named)]
    while waiting:
        path = waiting.pop()
        if path in found or _subpackage(path) in without:
            continue
        found.add(path)
        if path.suffix != ".py":
            continue
        module = _module(path, edits.get(path))
        waiting += [file for taken in module.imported for file in _resolved(*taken, path, edits)]
        waiting += [neighbour for text in module.texts if (neighbour := _neighbour(path, text))]
        if _subpackage(path) not in _OFFERING:
            waiting += [file for text in module.texts for file in _named(text, named)]
    return frozenset(found)


def digest(files: Iterable[Path], edits: Edits | None = None) -> str:
    """Fingerprint of the code in some files, including their names relative to the folder of the package."""
    edits, mark = edits or {}, hashlib.blake2b(digest_size=16)
    for label, path in sorted((_label(path), path) for path in files):
        own = _module(path, edits.get(path)).digest if path.suffix == ".py" else _bytes_digest(path.read_bytes())
        mark.update(f"{label} {own}\n".encode())
    return mark.hexdigest()


@cache
def _label(path: Path) -> str:
    return path.relative_to(_ROOT).as_posix() if path.is_relative_to(_ROOT) else path.name


def _bytes_digest(content: bytes) -> str:
    return hashlib.blake2b(content.replace(b"\r\n", b"\n"), digest_size=16).hexdigest()


def _components_by_name() -> dict[str, set[Path]]:
    """Name of a component -> the files that define it; a word for a group -> those of the group."""
    found: dict[str, set[Path]] = {}
    for kind in kinds():
        groups = [word for word, of in _GROUPS.items() if kind in of]
        for name, component in components(kind).items() if kind != "study" else ():
            if file := _file_of_loaded(component.__module__):
                for word in (name, *groups):
                    found.setdefault(word, set()).add(file)
    return found


def _named(text: str, named: Mapping[str, set[Path]]) -> Iterator[Path]:
    """The files of the components in a text as the command line takes it: NAME, NAME:SETTING=VALUE, several by +."""
    for part in text.split("+"):
        yield from named.get(part.partition(":")[0].strip(), ())


@cache
def _neighbour(path: Path, text: str) -> Path | None:
    """The data file of that name in the folder of a module."""
    plain = re.fullmatch(r"\w[\w-]*\.(?!py$)\w+", text)
    return neighbour if plain and (neighbour := path.with_name(text)).is_file() else None


@cache
def _subpackage(path: Path) -> str:
    """The sub-package or module of the package to which a file belongs; "" outside of the package."""
    return path.relative_to(_ROOT).with_suffix("").parts[1] if path.is_relative_to(_ROOT) else ""


def _file_of_start(name: str) -> Path:
    found = _file(name, None) or _file_of_loaded(name)
    if found is None or not found.is_file():
        raise ImportError(f"module {name!r} has no source file")
    return found


def _file_of_loaded(name: str) -> Path | None:
    file: str | None = getattr(sys.modules.get(name), "__file__", None)
    return _resolved_path(file) if file else None


@cache
def _resolved_path(file: str) -> Path:
    return Path(file).resolve()


@cache
def _file(name: str, importer: Path | None) -> Path | None:
    """The source of a module of the package, or of one in the folder of an importer outside the package."""
    top = name.partition(".")[0]
    if top == _PACKAGE:
        folder = _ROOT
    elif importer is not None and not importer.is_relative_to(_ROOT):
        folder = importer.parent
    else:
        return None
    place = folder.joinpath(*name.split("."))
    for path in (place / "__init__.py", place.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def _resolved(module: str, name: str, importer: Path, edits: Edits) -> Iterator[Path]:
    """The files on which a name imported from a module depends."""
    if name and (below := _file(f"{module}.{name}", importer)):
        module, name, path = f"{module}.{name}", "", below
    else:
        path = _file(module, importer)
    if path is None or _subpackage(path) in SILENT:
        return
    if name and path.name == "__init__.py":
        source = _module(path, edits.get(path))
        if name in source.bound:
            yield from _resolved(*source.bound[name], path, edits)
            return
        if module == _PACKAGE and name in source.defined:  # like the version: using it does not use the rest
            return
    yield path


def _module(path: Path, text: str | None) -> _Module:
    return _read(path, _on_disk(path) if text is None else text)


@cache
def _on_disk(path: Path) -> str:
    return path.read_text("utf-8")


@cache
def _read(path: Path, text: str) -> _Module:
    tree = ast.parse(text)
    nodes, package = list(ast.walk(tree)), _package_of(path)
    bound = {
        alias.asname or alias.name: (_absolute(node, package), alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    defined = frozenset(node.id for node in nodes if isinstance(node, ast.Name))
    _strip(nodes)
    used, dump = _Imports(package, nodes), list[str]()
    used.visit(tree)
    _dump(tree, dump)
    mark = hashlib.blake2b("".join(dump).encode(), digest_size=16).hexdigest()
    return _Module(frozenset(used.found), bound, defined, frozenset(used.texts), mark)


def _package_of(path: Path) -> str:
    return ".".join(path.relative_to(_ROOT).parent.parts) if path.is_relative_to(_ROOT) else ""


def _absolute(node: ast.ImportFrom, package: str) -> str:
    relative = "." * node.level + (node.module or "")
    return importlib.util.resolve_name(relative, package) if node.level and package else relative.lstrip(".")


class _Imports(ast.NodeVisitor):
    """Collects what a module imports and the texts in it."""

    def __init__(self, package: str, nodes: Iterable[ast.AST]) -> None:
        self.package = package
        self.found: set[tuple[str, str]] = set()
        self.texts: set[str] = set()
        imports = (node for node in nodes if isinstance(node, ast.Import))
        self._modules = {alias.asname or alias.name: alias.name for node in imports for alias in node.names}

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                self.visit(other)
        else:
            self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.found |= {(_absolute(node, self.package), alias.name) for alias in node.names}

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = self._modules.get(ast.unparse(node.value))
        if name is None:
            self.generic_visit(node)
        else:
            self.found.add((name, node.attr))

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in self._modules:  # a module that is passed on, or a package by its first part
            self.found.add((self._modules[node.id], ""))

    def visit_Call(self, node: ast.Call) -> None:
        if ast.unparse(node.func) != "Cite.of":  # an id of a paper may equal the name of a component, without using it
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.texts.add(node.value)


def _strip(nodes: Iterable[ast.AST]) -> None:
    """Remove texts for readers. Of docstrings, keep what the laws check: presence, length and an example."""
    for node in nodes:
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            doc = ast.get_docstring(node) if isinstance(node, ast.ClassDef) else None
            kept = [s for s in node.body if not _is_prose(s, node)]
            node.body = [*([ast.Expr(ast.Constant(f"{len(doc) > 60}, {'>>>' in doc}"))] if doc else []), *kept]


def _is_prose(statement: ast.stmt, owner: ast.AST) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
    targets = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [])
    return isinstance(owner, ast.ClassDef) and any(isinstance(t, ast.Name) and t.id in _PROSE for t in targets)


def _dump(node: object, out: list[str]) -> None:
    """Append a tree as text that is the same on every Python version: empty fields, like those of newer syntax, are
    left out."""
    if isinstance(node, ast.AST):
        out.append(f"{type(node).__name__}(")
        for name in node._fields:
            value = getattr(node, name, None)
            if (value is None or value == []) and not isinstance(node, ast.Constant):
                continue
            if name not in ("ctx", "kind", "type_comment"):
                out.append(f"{name}=")
                _dump(value, out)
        out.append(")")
    elif isinstance(node, list):
        out.append("[")
        for item in cast(list[object], node):
            _dump(item, out)
        out.append("]")
    else:
        out.append(f"{node!r},")
