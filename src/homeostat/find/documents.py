"""What is searched: every condition, treatment and paper as a few texts, with its verdict.

To collect them, all components are imported, and torch with them, which takes seconds. So they are stored in the user's
cache folder, together with a fingerprint of the installed files, and read from there until a file changes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
import re
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from homeostat.core.atomic_file import write_text
from homeostat.core.signals import suppressed

KINDS = ("condition", "treatment", "paper")
"""Kinds of things that are found."""


@dataclass(frozen=True)
class Document:
    """One thing that can be found.

    Args:
        kind: one of `KINDS`.
        name: of the component, or the id of the paper.
        says: one sentence on what it is.
        phrases: how people describe the problem that it is about, one sentence each.
        text: what the project writes about it.
        title: words that count more than those of the text.
        verdict: what studies say about it, "untested" if none does.
        treats: names of the conditions that it is a remedy for.
    """

    kind: str
    name: str
    says: str
    phrases: tuple[str, ...]
    text: str
    title: str
    verdict: str
    treats: tuple[str, ...] = ()


def load_documents(cache: Path | None = None) -> tuple[Document, ...]:
    """Every document, in the order of `KINDS` and then of names.

    Args:
        cache: file to read them from and store them in; by default `find.json` in the user's cache folder. A file that
            cannot be read or belongs to other code is replaced; one that cannot be written is left out.
    """
    source = cache or cache_file()
    current = fingerprint()
    with suppressed(OSError, ValueError, TypeError, KeyError):
        stored = json.loads(source.read_text("utf-8"))
        if stored["fingerprint"] == current:
            return tuple(_from_json(row) for row in stored["documents"])
    found = collect()
    with suppressed(OSError):
        rows = [dataclasses.asdict(document) for document in found]
        write_text(source, json.dumps({"fingerprint": current, "documents": rows}, ensure_ascii=False))
    return found


def cache_file() -> Path:
    """`homeostat/find.json` in `$XDG_CACHE_HOME`, by default `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "homeostat" / "find.json"


def fingerprint() -> str:
    """Digest of the names, sizes and times of the installed files that documents are made of."""
    root = Path(str(files("homeostat")))
    found = hashlib.sha256()
    for folder in ("find", "catalogue", "diagnosis", "treatments", "studies"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".json", ".txt"):
                facts = path.stat()
                found.update(f"{path.relative_to(root)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return found.hexdigest()


def collect() -> tuple[Document, ...]:
    """Every document, from the components and the catalogue. Imports all components."""
    # found by name, so that the command starts without them where the documents are stored
    registry, catalogue = import_module("homeostat.core.component"), import_module("homeostat.catalogue")
    studies = registry.components("study")
    conditions = registry.components("condition")
    return (
        *(_condition(cls) for cls in conditions.values()),
        *(_treatment(cls, conditions, studies) for cls in registry.components("treatment").values()),
        *(_paper(row) for row in catalogue.to_json()["entries"]),
    )


def phrases_of(kind: str, name: str) -> tuple[str, ...]:
    """Sentences of `phrases/KIND/NAME.txt`, one a line; none if there is no such file."""
    source = phrase_folder().joinpath(kind, f"{name}.txt")
    return tuple(line for line in source.read_text("utf-8").splitlines() if line) if source.is_file() else ()


def phrase_folder() -> Traversable:
    """Folder of the phrases."""
    return files("homeostat.find").joinpath("phrases")


def _from_json(row: dict[str, Any]) -> Document:
    return Document(**{**row, "phrases": tuple(row["phrases"]), "treats": tuple(row["treats"])})


def _condition(cls: type[Any]) -> Document:
    remedies = [remedy.do for remedy in cls.remedies]
    studied = {r.treatment: r.prescription().verdict for r in cls.remedies if r.treatment}
    tested = [f"{name} {verdict}" for name, verdict in studied.items() if verdict != "untested"]
    return Document(
        kind="condition",
        name=cls.name,
        says=_sentence(cls.explanation) or _first(cls),
        phrases=phrases_of("condition", cls.name),
        text=" ".join([cls.explanation, _first(cls), *remedies]),
        title=_spaced(cls.name),
        verdict="; ".join(tested) or "untested",
    )


def _treatment(cls: type[Any], conditions: dict[str, type[Any]], studies: dict[str, type[Any]]) -> Document:
    remedies = [(c.name, r) for c in conditions.values() for r in c.remedies if r.treatment == cls.name]
    ids = {r.study for _, r in remedies if r.study} | {
        study.name for study in studies.values() if study.name == cls.name or set(study.entries) & set(cls.entries)
    }
    verdicts = {id: import_module("homeostat.diagnosis.prescriptions").verdict(id) for id in sorted(ids)}
    decided = [verdict for verdict in verdicts.values() if verdict != "untested"]
    return Document(
        kind="treatment",
        name=cls.name,
        says=_first(cls),
        phrases=phrases_of("treatment", cls.name),
        text=" ".join([_first(cls), *dict.fromkeys(r.do for _, r in remedies)]),
        title=_spaced(cls.name),
        verdict=decided[0] if decided else "untested",
        treats=tuple(dict.fromkeys(name for name, _ in remedies)),
    )


def _paper(row: dict[str, Any]) -> Document:
    return Document(
        kind="paper",
        name=row["id"],
        says=_sentence(row["claim"]),
        phrases=(),
        text=f"{row['claim']} {row['mechanism']}",
        title=f"{_spaced(row['id'])} {row['title']} {row['system']} {_spaced(row['family'])}",
        verdict=row["verdict"] or "untested",
    )


def _first(cls: type[Any]) -> str:
    """The first sentence of a docstring."""
    return _sentence(" ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split()))


def _sentence(text: str, limit: int = 240) -> str:
    """The first sentence of a text, cut at `limit` characters."""
    first = re.split(r"(?<=[.])\s+(?=[A-Z])", text, maxsplit=1)[0]
    return first if len(first) <= limit else first[: limit - 4].rsplit(" ", 1)[0] + " ..."


def _spaced(name: str) -> str:
    return name.replace("-", " ")
